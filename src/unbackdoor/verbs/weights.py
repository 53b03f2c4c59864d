"""`weights`: vector arithmetic on safetensors files, whatever their size; nothing is loaded whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unbackdoor.base.errors import InputError
from unbackdoor.base.manifest import Manifest
from unbackdoor.runs.parameters import keywords
from unbackdoor.runs.result import plain
from unbackdoor.verbs.configs.weights import APPLY, CHECKPOINT, COMBINE, DIFF, INSPECT, LORA
from unbackdoor.verbs.results import AdapterResult, ArithmeticResult, InspectResult
from unbackdoor.verbs.results.files import Norms, TensorCounts
from unbackdoor.weights.arithmetic import Matching, combined, differences, matched, moved_by, write
from unbackdoor.weights.names import block_of
from unbackdoor.weights.stored import FLOATS, Stored, open_stored
from unbackdoor.weights.stream import OutputFile, Sums, sums

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@keywords(DIFF)
def diff(
    a: str | Path,
    b: str | Path,
    *,
    out: str | Path,
    dtype: str | None,
    hashes: bool,
    **matching: bool,
) -> ArithmeticResult:
    """Write A − B.

    Integers and BatchNorm's running statistics are no weights and are left out (`statistics` takes the latter in).

    Args:
        a, b: safetensors files, indices of sharded models, or folders with either.
        out: a .safetensors file, or, where A is sharded or no file is named, a folder that is not there yet.
        dtype: `float32`, `float16` or `bfloat16`; None keeps each tensor's own in A. The difference of two half
            precision models is exact in float32 only.
        hashes: put SHA-256 of the files read and written into the manifest, which takes longer than the arithmetic.
        matching: `ignore_prefix`, `partial`, `statistics`; see `unbackdoor.weights.arithmetic.Matching`.

    Returns:
        `out`, `tensors` (moved, copied), `bytes`, `seconds`.

    Raises:
        InputError: damaged files, names or shapes that do not fit, numbers that are not finite.
    """
    how, first, second = Matching(**matching), open_stored(Path(a)), open_stored(Path(b))
    manifest = Manifest("weights diff", {"a": str(a), "b": str(b), "dtype": dtype, **vars(how)})
    files = differences(first, second, _dtype(dtype), how)
    notes = {"kind": "task vector", "of": Path(a).name, "less": Path(b).name, "format": "pt"}
    return _written(Path(out), files, first, manifest, notes, {"a": first, "b": second} if hashes else {})


@keywords(APPLY)
def apply(
    model: str | Path,
    vector: str | Path,
    *,
    alpha: float,
    out: str | Path,
    hashes: bool,
    **matching: bool,
) -> ArithmeticResult:
    """Write model − α · vector, in the model's own layout, types and metadata; what the vector lacks is copied.

    Folders keep their configuration files. Bit for bit `a − α·t` in float32, rounded to the stored type.

    Args:
        model, vector: as for `diff`; the vector may be `vector.safetensors` of `vector` or `unlearn`.
        alpha: scaling coefficient α; subtracted, so that a positive one takes a backdoor's trigger vector out.
        out: as for `diff`.

    Raises:
        InputError: as for `diff`; an α that is not finite.
    """
    if not math.isfinite(alpha):
        raise InputError(f"α is {alpha}; give a number")
    how, first, second = (
        Matching(**matching),
        open_stored(Path(model)),
        open_stored(Path(vector)),
    )
    manifest = Manifest("weights apply", {"model": str(model), "vector": str(vector), "alpha": alpha, **vars(how)})
    read = {"model": first, "vector": second} if hashes else {}
    return _written(Path(out), moved_by(first, second, -alpha, how), first, manifest, None, read)


@keywords(COMBINE)
def combine(
    vectors: Sequence[str | Path],
    *,
    out: str | Path,
    scales: Sequence[float] | None,
    dtype: str | None,
    hashes: bool,
    **matching: bool,
) -> ArithmeticResult:
    """Write Σ scale · vector.

    Args:
        vectors: as for `diff`, one or more.
        scales: one for each; None for 1 each.

    Raises:
        InputError: as for `diff`; another number of scales than of vectors.
    """
    scales = [1.0] * len(vectors) if scales is None else list(scales)
    if len(scales) != len(vectors) or not vectors:
        raise InputError(f"{len(scales)} scales for {len(vectors)} vectors; give one for each")
    if not all(math.isfinite(scale) for scale in scales):
        raise InputError(f"scales {', '.join(map(str, scales))}: give numbers")
    how, opened = Matching(**matching), [open_stored(Path(vector)) for vector in vectors]
    given = {"vectors": [str(vector) for vector in vectors], "scales": scales, "dtype": dtype}
    manifest = Manifest("weights combine", {**given, **vars(how)})
    notes = {"kind": "task vector", "of": " ".join(Path(vector).name for vector in vectors), "format": "pt"}
    read = {f"vector {number}": stored for number, stored in enumerate(opened)} if hashes else {}
    return _written(Path(out), combined(opened, scales, _dtype(dtype), how), opened[0], manifest, notes, read)


@keywords(CHECKPOINT)
def convert(path: str | Path, *, out: str | Path, unpickle: bool) -> ArithmeticResult:
    """Write a torch checkpoint's state dict as safetensors; wrappers and a `module.` prefix are taken off.

    Args:
        path: a `.pt`, `.pth` or `.bin` file of plain tensors.
        unpickle: where it is more than that, run the code it asks for. Only if you trust its maker.

    Raises:
        InputError: as `unbackdoor.weights.files.read_checkpoint`; `out` is no safetensors file's name.
    """
    from unbackdoor.weights.files import read_checkpoint, write_tensors

    out = Path(out)
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: give a name that ends in .safetensors")
    manifest = Manifest("weights convert", {"path": str(path), "unpickle": unpickle})
    state = read_checkpoint(Path(path), unpickle=unpickle)
    write_tensors(out, state, {"format": "pt"})
    return _noted(out, manifest, 0, len(state), sum(t.numel() * t.element_size() for t in state.values()))


@keywords(LORA)
def lora(vector: str | Path, *, out: str | Path, rank: int, alpha: float, base: str | None) -> AdapterResult:
    """Write −α · vector as a low-rank adapter that PEFT applies to Hugging Face's `CLIPModel`, or to OpenCLIP's towers.

    Weights of linear modules and convolutions alone fit into an adapter; biases, norms and positions are left out, and
    so is what `rank` does not hold. Both are told, not made up for: measure what the cure is then worth. A vector taken
    with `method="lora"` fits whole.

    Args:
        vector: as for `diff`; OpenCLIP's names are turned into Hugging Face's where the model has that form (two plain
            transformers), and stay as they are elsewhere.
        out: a folder that is not there yet.
        alpha: scaling coefficient α.
        base: name of the model that it is for, kept in the adapter.

    Returns:
        `out`, `rank`, `kept` (share of the vector's squared norm), `modules`, `left_out` (tensors), `bytes`, `seconds`.

    Raises:
        InputError: a vector without such weights; `out` is there.
    """
    from unbackdoor.clip.convert import to_hf
    from unbackdoor.weights.adapters import WEIGHTS
    from unbackdoor.weights.lora import factorized, write_adapter
    from unbackdoor.weights.vector import load_vector

    if rank < 1:
        raise InputError(f"rank {rank}: must be at least 1")
    out = Path(out)
    manifest = Manifest("weights lora", {"vector": str(vector), "rank": rank, "alpha": alpha, "base": base})
    tau, _ = load_vector(Path(vector))
    if any(name.startswith("visual.transformer.") for name in tau):
        tau = to_hf(tau)
    factors, kept = factorized({name: -alpha * t for name, t in tau.items()}, rank)
    if not factors:
        raise InputError(f"{vector}: holds no weight of a linear module or a convolution")
    write_adapter(out, factors, base)
    result = AdapterResult(
        out=str(out),
        rank=rank,
        kept=kept,
        modules=len(factors),
        left_out=sum(name.removesuffix(".weight") not in factors for name in tau),
        bytes=(out / WEIGHTS).stat().st_size,
        seconds=round(manifest.seconds, 3),
    )
    manifest.write(out)
    return result


@keywords(INSPECT)
def inspect(a: str | Path, b: str | Path | None, *, ignore_prefix: bool) -> InspectResult:
    """Norms of a state dict by block, and its cosine with and distance from another.

    Returns:
        `groups` (a block each: tensors, elements, dtypes, norm, broken; with B also `other_norm`, `cosine` and `apart`,
        ‖A − B‖/‖B‖), `whole` (the same), `left_out` (integers), `only_a`, `only_b`, `tied`, `bytes`, `metadata`.

    Raises:
        InputError: as for `diff`.
    """
    first, second = open_stored(Path(a)), None if b is None else open_stored(Path(b))
    pairs, extra = ({}, []) if second is None else matched(first, second, Matching(ignore_prefix, True, True))
    groups: dict[str, list[Any]] = {}
    for entry in first.entries.values():
        other = pairs.get(entry.name)
        if entry.dtype in FLOATS and (second is None or (other is not None and other.dtype in FLOATS)):
            groups.setdefault(block_of(entry.name), []).append((entry, sums(entry, other)))
    every = [row for rows in groups.values() for row in rows]
    return InspectResult(
        a=str(a),
        b=None if b is None else str(b),
        bytes=first.size,
        files=len(first.shards),
        metadata=first.shards[0].metadata,
        tied=first.tied,
        groups=tuple(_norms(name, rows) for name, rows in groups.items()),
        whole=_norms(None, every),
        left_out=tuple(e.name for e in first.entries.values() if e.dtype not in FLOATS),
        only_a=() if second is None else tuple(name for name in first.entries if name not in pairs),
        only_b=tuple(extra),
    )


def _norms(group: str | None, rows: Sequence[Any]) -> Norms:
    total = sum((part for _, part in rows), Sums())
    size = math.sqrt(total.own * total.other)
    # What is not finite in B alone is told by inspecting B.
    sound = math.isfinite(total.other)
    return Norms(
        group=group,
        tensors=len(rows),
        elements=total.elements,
        dtypes=tuple(sorted({entry.dtype for entry, _ in rows})),
        norm=math.sqrt(total.own),
        broken=total.broken,
        other_norm=math.sqrt(total.other) if sound else None,
        cosine=total.product / size if sound and size else None,
        apart=math.sqrt(total.apart / total.other) if sound and total.other else None,
    )


def _dtype(name: str | None) -> str | None:
    if name is not None and name not in DTYPES:
        raise InputError(f"dtype {name!r} is none of {', '.join(DTYPES)}")
    return None if name is None else DTYPES[name]


def _written(
    out: Path,
    files: Sequence[OutputFile],
    like: Stored,
    manifest: Manifest,
    metadata: dict[str, str] | None,
    hashed: Mapping[str, Stored],
) -> ArithmeticResult:
    # Before the output, which may replace one of them.
    manifest.hashes |= {name: stored.digest() for name, stored in hashed.items()}
    write(out, files, like, metadata)
    if hashed:
        manifest.hashes["out"] = open_stored(out).digest()
    outputs = [output for file in files for output in file.outputs]
    copied = sum(output.copied for output in outputs)
    return _noted(out, manifest, len(outputs) - copied, copied, sum(output.size for output in outputs))


def _noted(out: Path, manifest: Manifest, moved: int, copied: int, size: int) -> ArithmeticResult:
    """Write the manifest of what lies at `out`, and tell of it."""
    tensors = TensorCounts(moved, copied)
    manifest.notes |= {"tensors": plain(tensors), "bytes": size}
    where = out if out.is_dir() else out.parent
    manifest.write(where, "manifest.json" if out.is_dir() else f"{out.name}.manifest.json")
    seconds = round(manifest.seconds, 3)
    return ArithmeticResult(verb=manifest.verb, out=str(out), tensors=tensors, bytes=size, seconds=seconds)
