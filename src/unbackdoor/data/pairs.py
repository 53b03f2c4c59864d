"""Image–caption pairs for contrastive training: which pairs a step sees is a function of (seed, step)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from unbackdoor.data.classnames import DEFAULT_TEMPLATES
from unbackdoor.data.images import ImageSet
from unbackdoor.errors import InputError


@dataclass(frozen=True)
class PairBatch:
    """One batch.

    Args:
        images: float (B, 3, S, S) in [0, 1].
        captions: B sentences.
        groups: int64 (B,); pairs with the same number ≥ 0 say the same thing, −1 stands alone.
        keys: int64 (B,), one number per image, for triggers that are redrawn.
    """

    images: Tensor
    captions: list[str]
    groups: Tensor
    keys: Tensor


class Pairs(Protocol):
    """A source of batches; the same (rows) always give the same batch."""

    def __len__(self) -> int: ...

    def batch(self, rows: Tensor) -> PairBatch:
        """The pairs `rows` (B,), in that order."""
        ...


@dataclass(frozen=True)
class ImagePairs:
    """Pairs of decoded images: their own captions, or else sentences made from class names and templates.

    Args:
        images: captioned, or labelled with named classes.
        templates: sentences with one `{}`; which one an image gets depends on its row alone.
    """

    images: ImageSet
    templates: Sequence[str] = DEFAULT_TEMPLATES

    def __post_init__(self) -> None:
        if not any(self.images.captions or ()) and not self._named():
            raise InputError(f"{self.images.spec} holds neither captions nor named labels; pairs need one of them")

    def __len__(self) -> int:
        return len(self.images)

    def _named(self) -> bool:
        return bool(self.images.classes) and bool((self.images.labels >= 0).any())

    def caption(self, row: int) -> str:
        """The sentence of one image."""
        own = self.images.captions[row] if self.images.captions else ""
        label = int(self.images.labels[row])
        if own or label < 0:
            return own
        return self.templates[row % len(self.templates)].replace("{}", self.images.classes[label])

    def batch(self, rows: Tensor) -> PairBatch:
        """See `Pairs`."""
        captions = [self.caption(row) for row in rows.tolist()]
        return PairBatch(self.images.float_batch(rows), captions, self.images.labels[rows], rows)
