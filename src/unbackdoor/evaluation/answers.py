"""The one way to ask a model: embeddings and answers of decoded images, as they are or triggered."""

from __future__ import annotations

import torch
from torch import Tensor

from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.triggers.base import Trigger

BATCH = 128
_BYTES = 10_000_000


def batch_size(side: int, device: torch.device) -> int:
    """Images of `side` px to look at together.

    On a CPU no more than 10 MB of float32 pixels: what is larger is given back to the system after every use, and
    fetching it again costs ten times what a trigger does with it (docs/lab/performance.md).
    """
    return BATCH if device.type != "cpu" else max(8, min(BATCH, _BYTES // (12 * side * side)))


def logits(
    clip: Clip, images: Tensor, head: Tensor, *, scale: float | None = None, compute: torch.dtype | None = None
) -> Tensor:
    """Zero-shot logits (B, C) of images (B, 3, H, W) in [0, 1], differentiable: scale · cosine.

    The model's bias, which moves all classes alike, is left out.

    Args:
        head: (C, D) unit rows, from `Clip.zero_shot_head`.
        scale: factor on the cosines in place of the model's own.
        compute: type of the tower's products, as in `Clip.encode_image`.
    """
    return (clip.logit_scale if scale is None else scale) * clip.encode_image(images, compute=compute) @ head.T


@torch.no_grad()
def embed(
    clip: Clip,
    images: ImageSet,
    rows: Tensor | None = None,
    *,
    trigger: Trigger | None = None,
    compute: torch.dtype | None = None,
) -> Tensor:
    """Unit embeddings (N, D), without gradients, where the model lies.

    Args:
        rows: row numbers (N,); all images by default.
        trigger: stamped on every image.
        compute: type of the tower's products, as in `Clip.encode_image`.
    """
    parts = []
    for part in (torch.arange(len(images)) if rows is None else rows).split(BATCH):
        batch = images.float_batch(part).to(clip.device)
        parts.append(clip.encode_image(batch if trigger is None else trigger(batch, keys=part), compute=compute))
    return torch.cat(parts)


@torch.no_grad()
def answers(clip: Clip, images: ImageSet, head: Tensor, trigger: Trigger | None = None) -> tuple[Tensor, Tensor]:
    """Most similar class (N,) and unit embeddings (N, D) of images, triggered if a trigger is given."""
    embeddings = embed(clip, images, trigger=trigger)
    return nearest(embeddings, head).cpu(), embeddings.cpu()


@torch.inference_mode()
def predict(clip: Clip, images: Tensor, head: Tensor, batch: int | None = None) -> Tensor:
    """Most similar class (N,) of images (N, 3, H, W) in [0, 1], in float32.

    Args:
        batch: so many at a time; all at once by default.
    """
    return torch.cat([nearest(clip.encode_image(part), head) for part in images.split(batch or len(images))])


def nearest(embeddings: Tensor, head: Tensor) -> Tensor:
    """Most similar class (N,) of unit embeddings (N, D); scale and bias do not change the answer."""
    return (embeddings @ head.T).argmax(dim=1)
