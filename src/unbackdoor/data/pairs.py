"""Image–caption pairs for contrastive training: which pairs a step sees is a function of (seed, step)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from unbackdoor.base.draws import batch_rows, unit_draws
from unbackdoor.base.errors import InputError
from unbackdoor.data.captions import drawn
from unbackdoor.data.classnames import DEFAULT_TEMPLATES
from unbackdoor.data.images import ImageSet
from unbackdoor.data.sentences import ClassText, read_class_texts


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

    def rows(self, batch: int, seed: int, step: int) -> Tensor:
        """Row numbers (≤ batch,) of a step; every epoch shows each once."""
        ...

    def chunks(self, size: int = 4096) -> Iterator[Tensor]:
        """All row numbers, at most `size` at a time."""
        ...

    def batch(self, rows: Tensor) -> PairBatch:
        """The pairs `rows` (B,), in that order; unreadable ones are left out, `keys` says which are there."""
        ...

    def captions(self, rows: Tensor) -> list[str]:
        """The sentences of `rows` (B,) without their images."""
        ...

    def content_hash(self) -> str:
        """Identity of the data, for checkpoints and manifests."""
        ...

    @property
    def spec(self) -> str:
        """The source, for people."""
        ...

    @property
    def skipped(self) -> int:
        """Broken samples left out so far."""
        ...


@dataclass(frozen=True)
class ImagePairs:
    """Pairs of decoded images: their own captions, or else sentences made from class names and templates.

    Args:
        images: captioned, or labelled with named classes.
        templates: sentences with one `{}`; which one an image gets depends on its row alone.
        texts: more to say of every class than its name, () for the names alone.
        seed: draws one of several captions of an image.
    """

    images: ImageSet
    templates: Sequence[str] = DEFAULT_TEMPLATES
    texts: tuple[ClassText, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if not any(self.images.captions or ()) and not self._named():
            raise InputError(f"{self.images.spec} holds neither captions nor named labels; pairs need one of them")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def spec(self) -> str:
        """See `Pairs`."""
        return self.images.spec

    @property
    def skipped(self) -> int:
        """See `Pairs`."""
        return self.images.skipped

    def _named(self) -> bool:
        return bool(self.images.classes) and bool((self.images.labels >= 0).any())

    def caption(self, row: int) -> str:
        """The sentence of one image."""
        own = drawn(self.images.captions[row], row, self.seed) if self.images.captions else ""
        label = int(self.images.labels[row])
        if own or label < 0:
            return own
        if self.texts:
            key = torch.tensor([row])
            draws = float(unit_draws(key, 0, 1)), float(unit_draws(key, 0, 2))
            return self.texts[label].sentence(self.templates, draws)
        return self.templates[row % len(self.templates)].replace("{}", self.images.classes[label])

    def rows(self, batch: int, seed: int, step: int) -> Tensor:
        """See `Pairs`."""
        return batch_rows(len(self), batch, seed, step)

    def chunks(self, size: int = 4096) -> Iterator[Tensor]:
        """See `Pairs`."""
        yield from torch.arange(len(self)).split(size)

    def batch(self, rows: Tensor) -> PairBatch:
        """See `Pairs`."""
        return PairBatch(self.images.float_batch(rows), self.captions(rows), self.images.labels[rows], rows)

    def captions(self, rows: Tensor) -> list[str]:
        """See `Pairs`."""
        return [self.caption(row) for row in rows.tolist()]

    def content_hash(self) -> str:
        """See `Pairs`."""
        texts = repr((self.images.captions, tuple(self.templates), self.texts))
        return hashlib.sha256(f"{self.images.content_hash()}{texts}".encode()).hexdigest()


@dataclass(frozen=True)
class Wording:
    """What is said of labelled images that have no caption of their own.

    Args:
        templates: sentences with one `{}`.
        captions: JSON file with synonyms and descriptions of the classes (see `read_class_texts`); by default
            `captions.json` beside labelled files, where there is one.
    """

    templates: Sequence[str] = DEFAULT_TEMPLATES
    captions: str | Path | None = None


def class_pairs(images: ImageSet, templates: Sequence[str], captions: str | Path | None = None) -> ImagePairs:
    """Pairs of decoded images, with what a captions file says of their classes; images of which nothing can be said are
    left out and counted."""
    texts = () if captions is None else read_class_texts(Path(captions), images.classes)
    speaking = images.labels >= 0 if images.classes else torch.zeros(len(images), dtype=torch.bool)
    if images.captions is not None:
        speaking = speaking | torch.tensor([bool(caption) for caption in images.captions])
    silent = int((~speaking).sum())
    if 0 < silent < len(images):
        images = replace(images.subset(speaking), skipped=images.skipped + silent)
    return ImagePairs(images, templates, texts)
