"""Image–text retrieval, both ways; functional and streaming.

* Image to text, R@k: share of images one of whose own texts is among the k nearest texts.
* Text to image, R@k: share of texts whose own image is among the k nearest images.

Ties count against the model, so that one whose embeddings have all collapsed to a point scores nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unbackdoor.metrics.rates import Rate

RECALLS = (1, 5, 10)
_BLOCK = 1024  # rows of the score matrix held at a time


def text_to_image_ranks(images: Tensor, texts: Tensor, owner: Tensor) -> Tensor:
    """How many foreign images are at least as near to each text as its own: int64 (T,), 0 is best.

    Args:
        images: (N, D) unit rows.
        texts: (T, D) unit rows.
        owner: int64 (T,), row of the image that each text belongs to.
    """
    if not len(texts):
        return torch.zeros(0, dtype=torch.int64)
    ranks = []
    for rows in torch.arange(len(texts), device=images.device).split(_BLOCK):
        scores = texts[rows] @ images.T
        own = scores.gather(1, owner[rows, None])
        ranks.append((scores >= own).sum(dim=1) - 1)
    return torch.cat(ranks)


def image_to_text_ranks(images: Tensor, texts: Tensor, owner: Tensor) -> Tensor:
    """How many foreign texts are at least as near to each image as the nearest of its own: int64 (N',), 0 is best.

    Arguments as above; images that own no text are left out.
    """
    if not len(owner):
        return torch.zeros(0, dtype=torch.int64)
    ranks = []
    for rows in torch.unique(owner).split(_BLOCK):
        scores = images[rows] @ texts.T
        own = owner == rows[:, None]
        best = scores.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)
        ranks.append(((scores >= best) & ~own).sum(dim=1))
    return torch.cat(ranks)


def recall(ranks: Tensor, k: int) -> Rate:
    """R@k of ranks (N,) that start at 0."""
    return Rate(int((ranks < k).sum()), len(ranks))


class RetrievalMeter:
    """Streaming form: feed batches of pairs, read R@k at the end; holds embeddings, never images."""

    def __init__(self, recalls: Sequence[int] = RECALLS) -> None:
        self.recalls = tuple(recalls)
        self._images: list[Tensor] = []
        self._texts: list[Tensor] = []
        self._owner: list[Tensor] = []
        self._count = 0

    def update(self, images: Tensor, texts: Tensor, owner: Tensor | None = None) -> None:
        """Add a batch: unit rows (B, D) and (T, D); `owner` (T,) says whose each text is within the batch, by default
        the image in the same row."""
        owner = torch.arange(len(texts)) if owner is None else owner
        self._images.append(images.detach().cpu())
        self._texts.append(texts.detach().cpu())
        self._owner.append(owner.cpu() + self._count)
        self._count += len(images)

    def compute(self) -> dict[str, dict[int, Rate]]:
        """`{"image_to_text": {k: rate}, "text_to_image": {k: rate}}` over everything fed so far."""
        images, texts = (torch.cat(part) if part else torch.zeros(0, 1) for part in (self._images, self._texts))
        owner = torch.cat(self._owner) if self._owner else torch.zeros(0, dtype=torch.int64)
        ranks = {
            "image_to_text": image_to_text_ranks(images, texts, owner),
            "text_to_image": text_to_image_ranks(images, texts, owner),
        }
        return {way: {k: recall(places, k) for k in self.recalls} for way, places in ranks.items()}
