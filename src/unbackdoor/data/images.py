"""Decoded images with their labels, classes and captions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unbackdoor.base.notebook import as_table, in_words
from unbackdoor.data.captions import Captions


@dataclass(frozen=True, repr=False)
class ImageSet:
    """Images decoded once and kept as bytes.

    Args:
        images: uint8 (N, 3, S, S), values 0-255.
        labels: int64 (N,), -1 where unknown.
        classes: class names, () when unknown; labels index them.
        captions: one sentence per image, "" where there is none, or a tuple of several; None where none has any.
        skipped: unreadable images that were left out.
        spec: the source, with the split that was read.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] = ()
    captions: tuple[Captions, ...] | None = None
    skipped: int = 0
    spec: str = ""

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return in_words("ImageSet", self._facts())

    def _repr_html_(self) -> str:
        return as_table("Images", self._facts())

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"spec": self.spec or "in memory", "images": len(self), "side": self.images.shape[-1]}
        more = {
            "labeled": int((self.labels >= 0).sum()),
            "classes": len(self.classes),
            "captioned": 0 if self.captions is None else len(self.captions),
            "skipped": self.skipped,
        }
        return facts | {name: number for name, number in more.items() if number}

    def float_batch(self, index: Tensor | Sequence[int], *, out: Tensor | None = None) -> Tensor:
        """Images `index` (B,) as float32 (B, 3, S, S) in [0, 1].

        Args:
            out: where they are written, of that shape and of any device; new memory by default.
        """
        # index_select copies whole images; indexing goes element by element, at up to twenty times the cost.
        some = self.images.index_select(0, torch.as_tensor(index, dtype=torch.int64))
        return (some.float() if out is None else out.copy_(some)).div_(255)

    def subset(self, index: Tensor | Sequence[int]) -> ImageSet:
        """The images `index`, in that order; `index` holds row numbers, or is a bool mask (N,)."""
        rows = torch.as_tensor(index)
        # Cast to int64, a mask would silently mean rows 0 and 1.
        rows = rows.nonzero().flatten() if rows.dtype == torch.bool else rows.to(torch.int64)
        captions = None if self.captions is None else tuple(self.captions[i] for i in rows.tolist())
        return ImageSet(self.images[rows], self.labels[rows], self.classes, captions, self.skipped, self.spec)

    def content_hash(self) -> str:
        """SHA-256 over pixels, labels and class names."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.labels):
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.contiguous().numpy().data)
        digest.update("\0".join(self.classes).encode())
        return digest.hexdigest()
