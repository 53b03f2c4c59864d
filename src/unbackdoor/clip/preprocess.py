"""A model's own preprocessing as batched, differentiable tensor operations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Preprocess:
    """From [0, 1] pixels to what the image tower expects.

    Args:
        size: side in pixels.
        mean, std: per channel, in [0, 1] units.
        mode: `bicubic` or `bilinear`.
        squash: make the image square; otherwise the short side is resized and the centre cropped.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: str = "bicubic"
    squash: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] → normalised (B, 3, size, size). Images of the right size are not resampled."""
        height, width = images.shape[-2:]
        if (height, width) != (self.size, self.size):
            images = self._resize(images, height, width)
        mean = torch.tensor(self.mean, dtype=images.dtype, device=images.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, dtype=images.dtype, device=images.device).view(1, -1, 1, 1)
        return (images - mean) / std

    def _resize(self, images: Tensor, height: int, width: int) -> Tensor:
        if self.squash:
            size = (self.size, self.size)
        else:
            factor = self.size / min(height, width)
            size = (max(self.size, round(height * factor)), max(self.size, round(width * factor)))
        images = F.interpolate(images, size=size, mode=self.mode, align_corners=False, antialias=True).clamp(0, 1)
        top, left = (size[0] - self.size) // 2, (size[1] - self.size) // 2
        return images[..., top : top + self.size, left : left + self.size]
