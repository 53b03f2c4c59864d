"""A model's own preprocessing as batched, differentiable tensor operations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unbackdoor.errors import InputError

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Frame:
    """How a picture becomes the square that an image tower sees.

    Args:
        side: of the square, in pixels.
        mode: `bicubic` or `bilinear`.
        squash: make the picture square; otherwise its short side is resized and the centre cut out.
        floor_crop: where an odd margin puts the cut: OpenCLIP (torchvision) rounds, Hugging Face rounds down.
    """

    side: int
    mode: str = "bicubic"
    squash: bool = True
    floor_crop: bool = False

    @classmethod
    def of(cls, side: int | Frame) -> Frame:
        """The frame itself, or the one that squashes to a number of pixels."""
        return side if isinstance(side, Frame) else cls(side)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width before the cut."""
        # Both libraries cut the long side's fraction off, in integers; rounding would shift the cut by a pixel.
        short = min(height, width)
        return (self.side, self.side) if self.squash else (self.side * height // short, self.side * width // short)

    def margin(self, length: int) -> int:
        """Pixels cut away at the beginning of a side of `length`."""
        margin = (length - self.side) / 2
        return int(margin) if self.floor_crop else round(margin)


@dataclass(frozen=True)
class Preprocess:
    """From [0, 1] pixels to what the image tower expects.

    Args:
        size: side in pixels.
        mean, std: per channel, in [0, 1] units.
        mode: `bicubic` or `bilinear`.
        squash: make the image square; otherwise the short side is resized and the centre cropped.
        floor_crop: where an odd margin puts the crop: OpenCLIP (torchvision) rounds, Hugging Face rounds down.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: str = "bicubic"
    squash: bool = False
    floor_crop: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] → normalised (B, 3, size, size). Images of the right size are not resampled."""
        if images.shape[-2:] != (self.size, self.size):
            images = self._resize(images)
        mean = torch.tensor(self.mean, dtype=images.dtype, device=images.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, dtype=images.dtype, device=images.device).view(1, -1, 1, 1)
        return (images - mean) / std

    @property
    def frame(self) -> Frame:
        """The part that concerns size and place."""
        return Frame(self.size, self.mode, self.squash, self.floor_crop)

    def _resize(self, images: Tensor) -> Tensor:
        height, width = self.frame.resized(*images.shape[-2:])
        images = F.interpolate(images, (height, width), mode=self.mode, align_corners=False, antialias=True).clamp(0, 1)
        top, left = self.frame.margin(height), self.frame.margin(width)
        return images[..., top : top + self.size, left : left + self.size]


def checked(
    what: str, *, size: Any, mean: Any, std: Any, mode: str, squash: bool, floor_crop: bool = False
) -> Preprocess:
    """A `Preprocess` from a file's values.

    Raises:
        InputError: a size that is not one positive side, or mean and std that are not three usable numbers each.
    """
    sides = list(size) if isinstance(size, Sequence) and not isinstance(size, str) else [size]
    if len(set(map(str, sides))) != 1 or not isinstance(sides[0], int) or sides[0] < 1:
        raise InputError(f"{what}: image size {size!r} is not one positive number of pixels; only square towers work")
    for name, values in (("mean", mean), ("std", std)):
        numbers = isinstance(values, list | tuple) and all(isinstance(v, int | float) for v in values)
        if (
            not numbers
            or len(values) != 3
            or not all(map(math.isfinite, values))
            or (name == "std" and min(values) <= 0)
        ):
            wanted = "positive numbers" if name == "std" else "numbers"
            raise InputError(f"{what}: image {name} must be three {wanted}, not {values!r}")
    return Preprocess(sides[0], tuple(map(float, mean)), tuple(map(float, std)), mode, squash, floor_crop)
