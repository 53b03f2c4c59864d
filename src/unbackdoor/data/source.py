"""What a source is: named splits of undecoded records, with class names when it knows them.

Adding a kind of source is one file with an `open_source(path)` and one line in the table of `data/specs.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Union

import numpy as np

Label = Union[int, str, None]
# Encoded bytes of one image, or its pixels (H, W, 3) uint8 where nothing is to be decoded.
Picture = Union[bytes, np.ndarray]


@dataclass(frozen=True)
class Split:
    """Records of one split; `picture(i)` reads the i-th image's bytes or pixels, only when asked.

    Args:
        labels: one per record: a class index, a class name, or None.
        picture: may raise OSError for an unreadable record, which is then skipped and counted.
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
