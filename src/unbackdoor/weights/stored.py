"""Safetensors on disk, one file or many: what lies where, read from the headers alone.

A header comes from a stranger, so nothing in it is believed before it is checked: that it is as long as it says, that
every tensor's bytes are as many as its shape asks for, and that together they cover the file once
(https://github.com/huggingface/safetensors#format). Nothing is mapped into memory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from unbackdoor.base.disk import digest
from unbackdoor.base.errors import InputError
from unbackdoor.base.untrusted import as_type, parse_json, read_json

# Bytes of an element.
WIDTHS = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "C64": 8,
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
FLOATS = ("F64", "F32", "F16", "BF16")  # those that arithmetic is done on
INDEX = ".safetensors.index.json"
_CONVERT = "make one of a torch checkpoint by `unbackdoor weights convert {name} --out NAME.safetensors`"
_LARGEST_HEADER = 32 << 20  # bytes, of 300,000 tensors; the format allows 100 MB, which take Python 3 GB
_MOST_DIMENSIONS = 32


@dataclass(frozen=True)
class Entry:
    """One tensor.

    Args:
        dtype: safetensors' name of it, a key of `WIDTHS`.
        file: where it lies.
        start: its first byte, counted from the file's.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int

    @property
    def elements(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """How many bytes."""
        return self.elements * WIDTHS[self.dtype]


@dataclass(frozen=True)
class Shard:
    """One file: its tensors in the order of their bytes, and its metadata."""

    path: Path
    entries: tuple[Entry, ...]
    metadata: dict[str, str]


@dataclass(frozen=True)
class Index:
    """A sharded model's index: tensor → the file that it lies in."""

    weight_map: dict[str, str]


@dataclass(frozen=True)
class Stored:
    """A state dict on disk.

    Args:
        path: what the user named, a file or a folder.
        index: the index's own content where there is one, and its file's name.
    """

    path: Path
    shards: tuple[Shard, ...]
    index: dict[str, Any] | None = None
    index_name: str = ""
    # alias → the stored tensor that it is tied to, as `safetensors.torch.save_model` notes it down
    tied: dict[str, str] = field(default_factory=dict)

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Every tensor by name."""
        return {entry.name: entry for shard in self.shards for entry in shard.entries}

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.size for entry in self.entries.values())

    def digest(self) -> str:
        """SHA-256 of the files' bytes, one after the other; of a single file what `sha256sum` gives."""
        return digest(*(shard.path for shard in self.shards))


def open_stored(path: Path) -> Stored:
    """A safetensors file, a sharded model's index, or a folder with either.

    Raises:
        InputError: there is none, more than one, or it is damaged.
    """
    file = _find(path)
    if file.name.endswith(".json"):
        return _open_index(path, file)
    shard = read_header(file)
    return Stored(path, (shard,), tied=_tied([shard]))


def _find(path: Path) -> Path:
    if path.is_dir():
        indices = sorted(p for p in path.iterdir() if p.name.endswith(INDEX))
        files = indices or sorted(path.glob("*.safetensors"))
        if not files:
            raise InputError(f"{path}: holds no safetensors file; {_CONVERT.format(name='FILE')}")
        if len(files) > 1:
            raise InputError(f"{path}: holds {len(files)} models ({', '.join(f.name for f in files[:4])}); name one")
        return files[0]
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder")
    if not path.name.endswith((".safetensors", INDEX)):
        what = f"is no safetensors file (nor a sharded model's {INDEX[1:]})"
        raise InputError(f"{path}: {what}; {_CONVERT.format(name=path.name)}")
    return path


def _open_index(path: Path, index: Path) -> Stored:
    content = read_json(index)
    names = read_places(content, str(index))
    shards = []
    for file in dict.fromkeys(names.values()):
        shards.append(read_header(index.parent / file))
    lies = {entry.name: shard.path.name for shard in shards for entry in shard.entries}
    if sum(len(shard.entries) for shard in shards) != len(lies):
        raise InputError(f"{index}: a tensor lies in more than one of its files; save the model again")
    if lies != names:
        wrong = sorted(set(lies.items()) ^ set(names.items()))[0][0]
        raise InputError(f"{index}: its files do not hold what it says (first: {wrong}); fetch the model again")
    return Stored(path, tuple(shards), content, index.name, _tied(shards))


def read_places(content: Any, what: str) -> dict[str, str]:
    """Tensor → file of a sharded model's index.

    Args:
        content: what the index's JSON says.
        what: the index, for the error.

    Raises:
        InputError: it has no `weight_map` of names, or places tensors elsewhere than in files beside it.
    """
    places = as_type(content, Index, f"{what}: is no index of a sharded model (no weight_map)").weight_map
    if not places:
        raise InputError(f"{what}: is no index of a sharded model (no weight_map)")
    for file in dict.fromkeys(places.values()):
        if not beside(file):
            raise InputError(f"{what}: places tensors in {file!r}, which is not a file beside it; do not trust it")
    return places


_LONGEST_NAME = 255  # bytes of a file's name on every usual system; of a longer one nothing can be asked


def beside(file: str) -> bool:
    """Whether what an index names is a plain file name, so that it lies in the index's own folder."""
    plain = file not in ("", ".", "..") and file == os.path.basename(file) and not set(file) & set("\\\0")
    return plain and len(file.encode("utf-8", "replace")) <= _LONGEST_NAME


def _tied(shards: list[Shard]) -> dict[str, str]:
    names = {entry.name for shard in shards for entry in shard.entries}
    notes = {key: value for shard in shards for key, value in shard.metadata.items()}
    return {alias: name for alias, name in notes.items() if name in names and alias not in names}


def read_header(path: Path) -> Shard:
    """What a safetensors file says that it holds, checked against the file.

    Raises:
        InputError: no such file, or a header that does not fit the file.
    """
    try:
        with path.open("rb") as file:
            whole = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if whole < 8 or length > whole - 8:
                raise _damaged(path, f"a header of {length} bytes in a file of {whole}")
            if length > _LARGEST_HEADER:
                raise _damaged(path, f"a header of {length:,} bytes, where {_LARGEST_HEADER:,} hold 300,000 tensors")
            content = file.read(length)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise _damaged(path, "a header that is no text") from None
    header = parse_json(text, f"{path}: not a sound safetensors file: its header", unique=True)
    if not isinstance(header, dict):
        raise _damaged(path, "a header that is no table of tensors")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _damaged(path, "metadata other than text")
    entries = sorted(_entries(path, header, 8 + length), key=lambda e: (e.start, e.size))
    at = 8 + length
    for entry in entries:
        if entry.start != at:
            raise _damaged(path, f"tensor {_short(entry.name)} does not begin where the one before it ends")
        at += entry.size
    if at != whole:
        raise _damaged(path, f"tensors of {at - 8 - length} bytes in {whole - 8 - length}; it may be cut short")
    return Shard(path, tuple(entries), metadata)


def _entries(path: Path, header: Mapping[str, Any], base: int) -> Iterator[Entry]:
    for name, facts in header.items():
        try:
            dtype, shape, (start, stop) = facts["dtype"], facts["shape"], facts["data_offsets"]
        except (TypeError, KeyError, ValueError):
            raise _damaged(path, f"tensor {_short(name)} without dtype, shape and place") from None
        if dtype not in WIDTHS if isinstance(dtype, str) else True:
            raise _damaged(path, f"tensor {_short(name)} of the unknown type {_short(dtype)}")
        numbers = [*shape, start, stop] if isinstance(shape, list) and len(shape) <= _MOST_DIMENSIONS else [None]
        if not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
            raise _damaged(path, f"tensor {_short(name)} of an impossible shape or place")
        entry = Entry(name, dtype, tuple(shape), path, base + start)
        if entry.size != stop - start:
            raise _damaged(path, f"tensor {_short(name)} of shape {_short(shape)} in {stop - start} bytes")
        yield entry


def _short(value: object) -> str:
    text = str(value).replace("\n", " ")
    return text if len(text) <= 60 else text[:57] + "…"


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path}: not a sound safetensors file: {what}; fetch it again")
