"""Sums of state dicts from file to file, a piece at a time: memory does not grow with the model.

Every output tensor is Σ scale · tensor over the state dicts that hold it. Half types are widened to float32 (float64
stays), products and sums are rounded one after another as `a − α·t` would be in NumPy or torch, and the result is
rounded once to the type it is stored in. So pieces do not show in it: it is bit for bit that of whole tensors.

Tensors that are no weights do not move, and come from the first state dict: integers, and the running statistics of
BatchNorm, which a scaled difference could turn negative.
"""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unbackdoor.base.disk import COMPANIONS, atomic, atomic_folder, copy_companions
from unbackdoor.base.errors import InputError
from unbackdoor.weights.stored import FLOATS, WIDTHS, Entry, Stored

PIECE = 1 << 19  # elements: a piece of each addend fits a core's cache
_CACHED = 1 << 14  # elements that stay in a core's cache in float64
_AHEAD = 3  # pieces in memory: one being read, one computed, one written
_STATISTICS = ("running_mean", "running_var")
_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True)
class Term:
    """One addend of an output tensor."""

    entry: Entry
    scale: float


@dataclass(frozen=True)
class Output:
    """One output tensor: a sum, or, with a single term of scale 1, a copy of the bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    terms: tuple[Term, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * WIDTHS[self.dtype]

    @property
    def copied(self) -> bool:
        """Whether the bytes stay as they are."""
        return len(self.terms) == 1 and self.terms[0].scale == 1 and self.terms[0].entry.dtype == self.dtype


@dataclass(frozen=True)
class OutputFile:
    """One output file."""

    name: str
    outputs: tuple[Output, ...]
    metadata: Mapping[str, str]


def moved(entry: Entry, statistics: bool = False) -> bool:
    """Whether arithmetic is done on a tensor; `statistics` counts BatchNorm's running ones in."""
    return entry.dtype in FLOATS and (statistics or entry.name.rpartition(".")[2] not in _STATISTICS)


def write_file(path: Path, file: OutputFile) -> None:
    """Write one file of sums, atomically.

    Raises:
        InputError: a number that is not finite, or too large for the stored type.
    """
    atomic(path, lambda temporary: _stream(temporary, file))


def write_folder(folder: Path, files: Sequence[OutputFile], like: Stored) -> None:
    """Write a folder of files that appears whole or not at all, with `like`'s index and side files.

    Raises:
        InputError: as `write_file`; the folder is there already and not empty.
    """

    def fill(temporary: Path) -> None:
        for file in files:
            _stream(temporary / file.name, file)
        copy_companions(like.path, temporary, kinds=(*COMPANIONS, ".md"))
        if like.index is not None:
            total = sum(output.size for file in files for output in file.outputs)
            places = {output.name: file.name for file in files for output in file.outputs}
            metadata = like.index.get("metadata")
            index = {"metadata": {**(metadata if isinstance(metadata, dict) else {}), "total_size": total}}
            text = json.dumps({**like.index, **index, "weight_map": places}, indent=2)
            (temporary / like.index_name).write_text(text + "\n", encoding="utf-8")

    atomic_folder(folder, fill)


def _stream(path: Path, file: OutputFile) -> None:
    header: dict[str, Any] = {"__metadata__": dict(file.metadata)} if file.metadata else {}
    at = 0
    for output in file.outputs:
        header[output.name] = {
            "dtype": output.dtype,
            "shape": list(output.shape),
            "data_offsets": [at, at + output.size],
        }
        at += output.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out, _Readers() as readers:
        out.write(len(text).to_bytes(8, "little") + text)
        out.flush()
        _pump(out.fileno(), _pieces(file.outputs), readers)


@dataclass(frozen=True)
class _Piece:
    output: Output
    first: int  # element
    count: int


def _pieces(outputs: Iterable[Output]) -> Iterator[_Piece]:
    for output in outputs:
        whole = math.prod(output.shape)
        for first in range(0, whole, PIECE):
            yield _Piece(output, first, min(PIECE, whole - first))


class _Readers:
    """Open files by path, closed together; read by one thread, since a file has one position."""

    def __init__(self) -> None:
        self._open: dict[Path, FileIO] = {}

    def __enter__(self) -> _Readers:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.close()

    def read(self, entry: Entry, first: int, into: NDArray[np.uint8]) -> None:
        """Fill `into` with the tensor's bytes from element `first` on."""
        if entry.file not in self._open:
            self._open[entry.file] = FileIO(entry.file)
        file, done, view = self._open[entry.file], 0, into.data
        file.seek(entry.start + first * WIDTHS[entry.dtype])
        while done < len(into):
            got = file.readinto(view[done:])
            if not got:
                raise InputError(f"{entry.file}: ends before tensor {entry.name} does; it changed while it was read")
            done += got


class _Room:
    """Buffers of one piece, made once and used again."""

    def __init__(self) -> None:
        self._raw: list[NDArray[np.uint8]] = []

    def raw(self, place: int, size: int) -> NDArray[np.uint8]:
        while len(self._raw) <= place:
            self._raw.append(np.empty(0, np.uint8))
        if len(self._raw[place]) < size:
            self._raw[place] = np.empty(max(size, 4 * PIECE), np.uint8)
        return self._raw[place][:size]


def _pump(out: int, pieces: Iterator[_Piece], readers: _Readers) -> None:
    """Read ahead in one thread and write behind in another, while this one computes."""
    rooms = deque(_Room() for _ in range(_AHEAD))
    waiting: deque[tuple[_Piece, _Room, Future[None]]] = deque()
    writing: deque[tuple[_Room, Future[None]]] = deque()
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:

        def ask() -> None:
            piece = next(pieces, None)
            if piece is None:
                return
            if not rooms:
                room, written = writing.popleft()
                written.result()
                rooms.append(room)
            room = rooms.popleft()
            waiting.append((piece, room, reader.submit(_fill, piece, room, readers)))

        ask()
        while waiting:
            piece, room, read = waiting.popleft()
            ask()
            read.result()
            writing.append((room, writer.submit(_write, out, _sum(piece, room))))
        for _, written in writing:
            written.result()


def _fill(piece: _Piece, room: _Room, readers: _Readers) -> None:
    for place, term in enumerate(piece.output.terms):
        size = piece.count * WIDTHS[term.entry.dtype]
        readers.read(term.entry, piece.first, room.raw(place, size))


def _write(out: int, data: NDArray[Any]) -> None:
    view, done = data.data.cast("B"), 0
    while done < len(view):
        done += os.write(out, view[done:])


def _sum(piece: _Piece, room: _Room) -> NDArray[Any]:
    output = piece.output
    sizes = [piece.count * WIDTHS[term.entry.dtype] for term in output.terms]
    if output.copied:
        return room.raw(0, sizes[0])
    wide = np.float64 if any(t.entry.dtype == "F64" for t in output.terms) else np.float32
    total: NDArray[Any] | None = None
    with np.errstate(over="ignore", invalid="ignore"):
        for place, (term, size) in enumerate(zip(output.terms, sizes, strict=True)):
            part = widened(room.raw(place, size), term.entry.dtype).astype(wide, copy=False)
            if term.scale not in (1, -1):
                np.multiply(part, wide(term.scale), out=part)
            if total is None:
                total = np.negative(part, out=part) if term.scale == -1 else part
            else:
                (np.subtract if term.scale == -1 else np.add)(total, part, out=total)
        assert total is not None
        # The sum of finite numbers is finite, but for an overflow, which the second look sorts out.
        if not np.isfinite(np.add.reduce(total)) and not np.isfinite(total).all():
            raise InputError(f"{_files(output)}: tensor {output.name} comes out with NaN or infinite values")
        return narrowed(total, output)


def _files(output: Output) -> str:
    return " and ".join(dict.fromkeys(str(term.entry.file) for term in output.terms))


def widened(raw: NDArray[np.uint8], dtype: str) -> NDArray[Any]:
    """Stored bytes of a floating type as float32, float64 for F64; float types that need no widening share memory."""
    values: NDArray[Any] = raw.view(_NUMPY[dtype])
    if dtype == "BF16":
        return (values.astype("<u4") << 16).view("<f4")
    return values.astype(np.float32) if dtype == "F16" else values


def narrowed(values: NDArray[Any], output: Output) -> NDArray[Any]:
    """Finite float32 or float64 in the stored type, rounded to nearest, ties to even.

    Raises:
        InputError: a number is too large for the type.
    """
    out: NDArray[Any]
    if output.dtype == "BF16":
        bits = values.astype("<f4", copy=False).view("<u4")
        out = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype("<u2")
        finite = not bool(((out & 0x7F80) == 0x7F80).any())
    else:
        out = values.astype(_NUMPY[output.dtype], copy=False)
        finite = out.dtype == values.dtype or bool(np.isfinite(out).all())
    if not finite:
        raise InputError(
            f"{_files(output)}: tensor {output.name} comes out with numbers too large for {output.dtype}; "
            "give a smaller scale"
        )
    return out


@dataclass
class Sums:
    """Sums over the elements of a tensor, or of several, and of its counterpart in another state dict.

    Args:
        elements: how many.
        own, other, product, apart: Σ a², Σ b², Σ a·b and Σ (a − b)².
        broken: elements of a that are NaN or infinite; they count for 0.
    """

    elements: int = 0
    own: float = 0.0
    other: float = 0.0
    product: float = 0.0
    apart: float = 0.0
    broken: int = 0

    def __add__(self, more: Sums) -> Sums:
        return Sums(*(getattr(self, name) + getattr(more, name) for name in vars(self)))


def sums(entry: Entry, other: Entry | None = None) -> Sums:
    """Sums over one tensor of a floating type, in float64."""
    totals = Sums(entry.elements)
    terms = tuple(Term(e, 1) for e in (entry, other) if e is not None)
    room = _Room()
    with _Readers() as readers:
        for piece in _pieces([Output(entry.name, entry.dtype, entry.shape, terms)]):
            _fill(piece, room, readers)
            raws = [room.raw(i, piece.count * WIDTHS[t.entry.dtype]) for i, t in enumerate(terms)]
            wide = [widened(raw, t.entry.dtype) for raw, t in zip(raws, terms, strict=True)]
            for at in range(0, piece.count, _CACHED):
                _count(totals, *(part[at : at + _CACHED].astype(np.float64) for part in wide))
    return totals


def _count(totals: Sums, own: NDArray[np.float64], other: NDArray[np.float64] | None = None) -> None:
    square = _dot(own, own)
    if not math.isfinite(square):
        sound = np.isfinite(own)
        totals.broken += int((~sound).sum())
        own = np.where(sound, own, 0.0)
        square = _dot(own, own)
    totals.own += square
    if other is not None:
        totals.other += _dot(other, other)
        totals.product += _dot(own, other)
        np.subtract(own, other, out=own)
        totals.apart += _dot(own, own)


def _dot(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    # np.dot wakes BLAS's threads, which on a busy machine cost a thousand times what so few elements do.
    return float(np.einsum("i,i->", a, b))
