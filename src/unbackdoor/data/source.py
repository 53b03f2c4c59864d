"""What a source is: named splits of undecoded records, with class names when it knows them.

Adding a kind of source is one file with an `open_source(rest)` and the `SourceKind` that holds it, and one line in
`SOURCES` of `data/specs.py`, or an entry point `unbackdoor.sources` of another package.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

import numpy as np

from unbackdoor.data.captions import Captions

Label = Union[int, str, None]
# Encoded bytes of one image, or its pixels (H, W, 3) uint8 where nothing is to be decoded.
Picture = Union[bytes, np.ndarray]
LARGEST_IMAGE = 64 << 20  # bytes; a larger file is nobody's picture, or nothing to be read beside others


def read_label(text: str | None) -> Label:
    """A label as it stands in a text file: a whole number, a name, or None where it is empty or negative (unknown)."""
    text = (text or "").strip()
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        return text or None
    return int(text) if int(text) >= 0 else None


def one_space(labels: Sequence[Label]) -> Sequence[Label]:
    """Labels that are all numbers or all names: numbers beside names would be two label spaces, so all become names."""
    if any(isinstance(label, str) for label in labels):
        return [None if label is None else str(label) for label in labels]
    return labels


def _row_name(row: int) -> str:
    return f"record {row}"


@dataclass(frozen=True)
class Split:
    """Records of one split; `picture(i)` reads the i-th image's bytes or pixels, only when asked.

    Args:
        labels: one per record: a class index, a class name, or None.
        picture: may raise OSError or ValueError for an unreadable record, which is then skipped and counted.
        captions: one value per record (`data.captions`), or None.
        notes: what was left out, or read otherwise than expected, in lines for people.
        name: what a record is called in its source.
    """

    labels: Sequence[Label]
    picture: Callable[[int], Picture]
    captions: Sequence[Captions] | None = None
    notes: tuple[str, ...] = ()
    name: Callable[[int], str] = _row_name

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Source:
    """What can be said of a source before any of its splits is read.

    Args:
        splits: readers by name, "" for the only one of a source without splits.
        classes: class names, () when unknown.
        notes: as in `Split`.
        unlabeled: splits known to have no labels; another is taken for a test split where there is one.
    """

    splits: Mapping[str, Callable[[], Split]]
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unlabeled: frozenset[str] = frozenset()


@dataclass(frozen=True)
class SourceKind:
    """What `scheme:rest` is opened by.

    Args:
        open: the source of a rest.
        pairs: the captioned `data.stream.Parts` of a rest and a split, to be streamed; None where it holds no
            captions.
        splits: whether pairs have splits; without, they are read whole.
    """

    open: Callable[[str], Source]
    pairs: Callable[[str, str | None], Any] | None = None
    splits: bool = False
