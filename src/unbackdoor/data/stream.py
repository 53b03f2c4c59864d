"""`PairStream`: image–caption pairs read from disk batch by batch, in memory that does not grow with their number.

A source is a list of parts (shards, a table, row groups); a part knows its size and opens a reader on demand. What is
in memory at a time: one number per block of thousands of pairs, the order within one window of blocks, a few open
readers, and the batch.

Order of an epoch: blocks are shuffled, and the pairs of every window of some eight blocks are shuffled among
themselves. Each epoch still shows every pair once, and which rows a step sees is a function of (seed, step) alone.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from unbackdoor.base.draws import window_order
from unbackdoor.base.errors import InputError
from unbackdoor.clip.preprocess import Frame
from unbackdoor.data.captions import Captions, drawn
from unbackdoor.data.decode import decode_all
from unbackdoor.data.pairs import PairBatch
from unbackdoor.data.source import Picture

WINDOW_BLOCKS = 8  # blocks whose pairs are shuffled together


class Reader(Protocol):
    """An open part. Both may raise OSError or ValueError for a broken pair; several threads may call at once."""

    def picture(self, row: int) -> Picture:
        """The image of pair `row` of this part."""
        ...

    def captions(self, row: int) -> Captions:
        """The sentence of pair `row` of this part, or several."""
        ...


@dataclass(frozen=True)
class Part:
    """Some pairs that are opened together.

    Args:
        name: identity of the content, for checkpoints: file name, bytes, and the place in it.
        size: pairs.
        open: makes a reader; may hold as much memory as one part needs.
    """

    name: str
    size: int
    open: Callable[[], Reader]


@dataclass(frozen=True)
class Parts:
    """All parts of a source.

    Args:
        parts: in the source's order.
        skipped: broken samples that the parts leave out: no image, no caption, cut off.
        block: pairs that stay neighbours when an epoch is shuffled; larger parts are cut into blocks of this size.
        held: readers kept open at a time.
    """

    parts: Sequence[Part]
    skipped: int
    block: int
    held: int


class PairStream:
    """See the module's first lines.

    Attributes:
        spec: the source.
        side: as in `load_images`.
        skipped: broken samples met so far: those found when the parts were listed, and unreadable images since.
        unreadable: rows of the latter.
    """

    def __init__(self, spec: str, source: Parts, side: int | Frame, limit: int | None = None, seed: int = 0) -> None:
        """Read at most `limit` pairs, the same share of every part; `seed` draws one of several captions.

        Raises:
            InputError: no pairs.
        """
        self.spec, self._frame, self._seed = spec, Frame.of(side), seed
        self._source = source
        sizes = np.array([part.size for part in source.parts], dtype=np.int64)
        self._ends = np.cumsum(sizes)
        self._first = self._ends - sizes
        self._starts, self._sizes = _blocks(self._first, _shares(sizes, limit), source.block)
        self._count = int(self._sizes.sum())
        if not self._count:
            raise InputError(f"{spec}: holds no readable pair of image and caption; {source.skipped} were skipped")
        self._open: OrderedDict[int, Reader] = OrderedDict()
        self._opening = Lock()
        self.unreadable: set[int] = set()

    def __len__(self) -> int:
        return self._count

    @property
    def skipped(self) -> int:
        """Broken samples met so far."""
        return self._source.skipped + len(self.unreadable)

    def content_hash(self) -> str:
        """SHA-256 over names and sizes of the parts; nothing is read for it."""
        text = "\n".join(f"{part.name} {part.size}" for part in self._source.parts)
        return hashlib.sha256(f"{text}\n{self._count}".encode()).hexdigest()

    def chunks(self, size: int = 4096) -> Iterator[Tensor]:
        """All row numbers in order, at most `size` at a time."""
        for start, length in zip(self._starts.tolist(), self._sizes.tolist(), strict=True):
            for begin in range(start, start + length, size):
                yield torch.arange(begin, min(begin + size, start + length))

    def rows(self, batch: int, seed: int, step: int) -> Tensor:
        """Row numbers (≤ batch,) of `step`; see the module's first lines for the order."""
        epoch, at = divmod(step, max(1, -(-self._count // batch)))
        span = max(1, WINDOW_BLOCKS * self._source.block // batch) * batch  # a batch never lies in two windows
        window, inside = divmod(at * batch, span)
        size = min(span, self._count - window * span)
        places = window * span + window_order(size, seed, epoch, window + 1)[inside : inside + batch]
        order = window_order(len(self._sizes), seed, epoch, 0)
        ends = np.cumsum(self._sizes[order])
        block = np.searchsorted(ends, places, side="right")
        offset = places - (ends[block] - self._sizes[order[block]])
        return torch.from_numpy(self._starts[order[block]] + offset)

    def batch(self, rows: Tensor) -> PairBatch:
        """The pairs `rows` (B,), in that order; those that cannot be read are left out and counted."""
        images, readable = decode_all(self._picture, rows.tolist(), self._frame, None)
        captions: list[str] = []
        good: list[int] = []
        for i, caption in enumerate(self.captions(torch.tensor(readable, dtype=torch.int64))):
            if caption:
                captions.append(caption)
                good.append(i)
        keys = torch.tensor([readable[i] for i in good], dtype=torch.int64)
        if len(keys) < len(rows):
            self.unreadable |= set(rows.tolist()) - set(keys.tolist())
        return PairBatch(images[good].float().div_(255), captions, torch.full((len(keys),), -1), keys)

    def captions(self, rows: Tensor) -> list[str]:
        """Sentences of `rows` (B,), "" where one cannot be read; images are left alone."""
        texts = []
        for row in rows.tolist():
            try:
                part, inside = self._place(row)
                texts.append(drawn(self._reader(part).captions(inside), row, self._seed))
            except (OSError, ValueError):
                texts.append("")
        return texts

    def _picture(self, row: int) -> Picture:
        part, inside = self._place(row)
        return self._reader(part).picture(inside)

    def _place(self, row: int) -> tuple[int, int]:
        part = int(np.searchsorted(self._ends, row, side="right"))
        return part, row - int(self._first[part])

    def _reader(self, part: int) -> Reader:
        with self._opening:
            if part not in self._open:
                self._open[part] = self._source.parts[part].open()
                if len(self._open) > self._source.held:
                    self._open.popitem(last=False)  # whoever still reads from it keeps it alive
            self._open.move_to_end(part)
            return self._open[part]


def _shares(sizes: np.ndarray, limit: int | None) -> np.ndarray:
    """How many pairs of each part are used, at most `limit` in all."""
    total = int(sizes.sum())
    if limit is None or limit >= total:
        return sizes
    ends = np.cumsum(sizes) * limit // total
    shares: np.ndarray = np.diff(ends, prepend=0)
    return shares


def _blocks(first: np.ndarray, sizes: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """First rows and sizes of the blocks that the parts are cut into."""
    starts, lengths = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for begin, size in zip(first.tolist(), sizes.tolist(), strict=True):
        cuts = np.arange(0, size, block, dtype=np.int64)
        starts.append(begin + cuts)
        lengths.append(np.minimum(block, size - cuts))
    return np.concatenate(starts), np.concatenate(lengths)
