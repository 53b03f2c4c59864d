"""Embeddings of decoded images by a model as it stands."""

from __future__ import annotations

import torch
from torch import Tensor

from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet

_BATCH = 128


@torch.no_grad()
def embed(
    clip: Clip,
    images: ImageSet,
    rows: Tensor | None = None,
    *,
    mirrored: bool = False,
    compute: torch.dtype | None = None,
) -> Tensor:
    """Unit embeddings (N, D), without gradients.

    Args:
        rows: row numbers (N,); all images by default.
        mirrored: of the images turned left to right.
        compute: type of the tower's products, as in `Clip.encode_image`.
    """
    parts = (torch.arange(len(images)) if rows is None else rows).split(_BATCH)
    batches = (images.float_batch(part).to(clip.device) for part in parts)
    return torch.cat([clip.encode_image(b.flip(-1) if mirrored else b, compute=compute) for b in batches])
