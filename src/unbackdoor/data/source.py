"""What a source is: named splits of undecoded records, with class names when it knows them.

Adding a kind of source is one file with an `open_source(path)` and one line in the table of `data/specs.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Union

import numpy as np

Label = Union[int, str, None]
# Encoded bytes of one image, or its pixels (H, W, 3) uint8 where nothing is to be decoded.
Picture = Union[bytes, np.ndarray]


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


@dataclass(frozen=True)
class Split:
    """Records of one split; `picture(i)` reads the i-th image's bytes or pixels, only when asked.

    Args:
        labels: one per record: a class index, a class name, or None.
        picture: may raise OSError or ValueError for an unreadable record, which is then skipped and counted.
        captions: one per record, or None.
    """

    labels: Sequence[Label]
    picture: Callable[[int], Picture]
    captions: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Source:
    """Splits by name ("" for the only one of a source without splits) and class names, () when unknown."""

    splits: Mapping[str, Callable[[], Split]]
    classes: tuple[str, ...] = ()
