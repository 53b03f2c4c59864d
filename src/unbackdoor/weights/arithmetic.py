"""Which tensor is subtracted from which: matches state dicts on disk by name, and has `weights.stream` sum them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from unbackdoor.base.errors import InputError
from unbackdoor.weights.names import bare
from unbackdoor.weights.stored import FLOATS, Entry, Stored
from unbackdoor.weights.stream import Output, OutputFile, Term, moved, write_file, write_folder

T = TypeVar("T")


@dataclass(frozen=True)
class Matching:
    """How differences of names are dealt with.

    Args:
        ignore_prefix: what wrappers put before names (`module.`, `model.`, `_orig_mod.`, …) does not count.
        partial: tensors that only some hold are no error: of a model they stay as they are, a difference leaves them
            out, and in a combination of vectors they count as zero elsewhere.
        statistics: BatchNorm's running statistics are moved like weights.
    """

    ignore_prefix: bool = False
    partial: bool = False
    statistics: bool = False


def matched(own: Stored, other: Stored, how: Matching) -> tuple[dict[str, Entry], list[str]]:
    """`other`'s tensors by `own`'s names, and those of its names that `own` lacks.

    A name that either knows to be tied to another stands for that one.

    Raises:
        InputError: the names agree but for a prefix that is not to be ignored; a shape differs.
    """
    theirs = {**{alias: other.entries[name] for alias, name in other.tied.items()}, **other.entries}
    pairs = {name: theirs[name] for name in own.entries if name in theirs}
    if len(pairs) < len(other.entries):
        mine, bared = _bared({name: name for name in own.entries}), _bared(theirs)
        through = {mine[name]: entry for name, entry in bared.items() if name in mine}
        if len(through) > len(pairs):
            a = next(name for name in through if name not in pairs)
            if not how.ignore_prefix:
                raise InputError(
                    f"{other.path} names {through[a].name} what {own.path} names {a}; give --ignore-prefix to "
                    "match names without what wrappers put before them"
                )
            pairs = through | pairs
    for name, entry in pairs.items():
        if entry.shape != own.entries[name].shape:
            raise InputError(
                f"{other.path}: {entry.name} is {entry.shape}, {own.path}'s {name} {own.entries[name].shape}; "
                "they are of different architectures"
            )
    used = {entry.name for entry in pairs.values()}
    tied = {alias for alias, name in own.tied.items() if name in pairs}
    return pairs, [name for name in other.entries if name not in used and name not in tied]


def _bared(entries: Mapping[str, T]) -> dict[str, T]:
    """By bare names; where two tensors share one, neither can be meant."""
    counts = Counter(bare(name) for name in entries)
    return {bare(name): entry for name, entry in entries.items() if counts[bare(name)] == 1}


def differences(a: Stored, b: Stored, dtype: str | None, how: Matching) -> list[OutputFile]:
    """A − B, in A's layout; tensors that do not move (`weights.stream`) are left out.

    Raises:
        InputError: as `matched`; a tensor that one of them lacks, unless `how.partial`.
    """
    pairs, extra = matched(a, b, how)
    if not how.partial:
        _refuse(a, [name for name in a.entries if name not in pairs], b, "left out of the difference")
        _refuse(b, extra, a, "left out of the difference")

    def output(entry: Entry) -> Output | None:
        if entry.name not in pairs or not moved(entry, how.statistics):
            return None
        other = _moving(pairs[entry.name])
        return Output(entry.name, dtype or entry.dtype, entry.shape, (Term(entry, 1), Term(other, -1)))

    return _files(a, [output(entry) for shard in a.shards for entry in shard.entries])


def moved_by(model: Stored, vector: Stored, scale: float, how: Matching) -> list[OutputFile]:
    """model + scale · vector, in the model's layout, types and metadata.

    Raises:
        InputError: as `matched`; the vector names a tensor that the model lacks, unless `how.partial`.
    """
    pairs, extra = matched(model, vector, how)
    if not how.partial:
        _refuse(vector, extra, model, "ignored")

    def output(entry: Entry) -> Output:
        terms = [Term(entry, 1)]
        if entry.name in pairs and moved(entry, how.statistics):
            terms.append(Term(_moving(pairs[entry.name]), scale))
        return Output(entry.name, entry.dtype, entry.shape, tuple(terms))

    whole = [output(entry) for shard in model.shards for entry in shard.entries]
    if not any(len(o.terms) > 1 for o in whole):
        raise InputError(f"{vector.path}: holds nothing that could be added to {model.path}")
    return _files(model, list(whole), keep_metadata=True)


def combined(vectors: Sequence[Stored], scales: Sequence[float], dtype: str | None, how: Matching) -> list[OutputFile]:
    """Σ scale · vector, in the first one's layout.

    Raises:
        InputError: as `matched`; a tensor that one of them lacks, unless `how.partial`; then tensors that the first
            lacks are still one.
    """
    first = vectors[0]
    matches = [matched(first, vector, how) for vector in vectors]
    for vector, (pairs, extra) in zip(vectors, matches, strict=True):
        _refuse(vector, extra, first, None)
        if not how.partial:
            _refuse(first, [name for name in first.entries if name not in pairs], vector, "taken as zero there")

    def output(entry: Entry) -> Output | None:
        if not moved(entry, how.statistics):
            return None
        terms = [Term(_moving(f[entry.name]), s) for s, (f, _) in zip(scales, matches, strict=True) if entry.name in f]
        return Output(entry.name, dtype or entry.dtype, entry.shape, tuple(terms))

    return _files(first, [output(entry) for shard in first.shards for entry in shard.entries])


def write(out: Path, files: Sequence[OutputFile], like: Stored, metadata: Mapping[str, str] | None = None) -> None:
    """Write what one of the above returned: a file, or, where `like` is sharded or `out` is no file's name, a folder.

    Raises:
        InputError: a sharded model is to become a file; nothing is left to write; as `weights.stream` says.
    """
    if not any(file.outputs for file in files):
        raise InputError(f"{like.path}: holds nothing that is moved, so there is nothing to write")
    if metadata is not None:
        files = [replace(file, metadata=metadata) for file in files]
    if not out.name.endswith(".safetensors"):
        write_folder(out, files, like)
    elif len(files) > 1 or like.index is not None:
        raise InputError(f"{out}: {like.path} is sharded, and so is what comes of it; give the name of a folder")
    else:
        write_file(out, files[0])


def _files(like: Stored, outputs: Sequence[Output | None], *, keep_metadata: bool = False) -> list[OutputFile]:
    by_name = {output.name: output for output in outputs if output is not None}
    files = []
    for shard in like.shards:
        own = tuple(by_name[entry.name] for entry in shard.entries if entry.name in by_name)
        if own or keep_metadata:
            files.append(OutputFile(shard.path.name, own, shard.metadata if keep_metadata else {}))
    return files


def _moving(entry: Entry) -> Entry:
    if entry.dtype not in FLOATS:
        raise InputError(f"{entry.file}: {entry.name} is of type {entry.dtype}, which is not added or subtracted")
    return entry


def _refuse(holder: Stored, names: Sequence[str], lacking: Stored, otherwise: str | None) -> None:
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        way = "name the vector that holds all of them first" if otherwise is None else (
            f"with --partial such tensors are {otherwise}"
        )  # fmt: skip
        raise InputError(f"{lacking.path} lacks {names[0]}{more} of {holder.path}; {way}")
