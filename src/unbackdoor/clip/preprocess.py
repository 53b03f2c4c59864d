"""A model's own preprocessing: how pictures are framed, and the rest as batched, differentiable tensor operations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unbackdoor.base.errors import InputError

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
FITS = ("squash", "shortest", "longest", "none")
MODES = ("bicubic", "bilinear", "nearest", "box", "hamming", "lanczos")
_LEAST_STD, _MOST = 1e-6, 1e6  # of means and standard deviations; beyond them float32 loses the picture
LARGEST = 2048  # pixels of a side; a file that asks for more asks for memory


@dataclass(frozen=True)
class Frame:
    """How a picture becomes the square that an image tower sees: it is resized, then its centre is cut out.

    Args:
        side: of the square, in pixels.
        mode: one of `MODES`.
        fit: what is resized to `edges`: `squash` both sides, `shortest` the short side (the long one in proportion),
            `longest` the larger side by proportion, so that all of the picture fits in; `none` leaves it as it is.
        floor_crop: OpenCLIP (torchvision) rounds where the cut falls on half a pixel, Hugging Face rounds down.
        edges: height and width to resize to, None for `side`.
        white: put transparent pictures on white, as Hugging Face does since version 5; otherwise alpha is dropped.

    What is smaller than the square after resizing lies in the middle of a black one.
    """

    side: int
    mode: str = "bicubic"
    fit: str = "squash"
    floor_crop: bool = False
    edges: tuple[int, int] | None = None
    white: bool = False

    @classmethod
    def of(cls, side: int | Frame) -> Frame:
        """The frame itself, or the one that squashes to a number of pixels."""
        return side if isinstance(side, Frame) else cls(side)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width before the cut."""
        high, wide = self.edges or (self.side, self.side)
        if self.fit == "none":
            return height, width
        if self.fit == "squash":
            return high, wide
        if self.fit == "shortest":
            # Both libraries cut the long side's fraction off, in integers; rounding would shift the cut by a pixel.
            short = min(height, width)
            return high * height // short, high * width // short
        if self.floor_crop:  # each library's own arithmetic, rounding errors included
            scale = min(high / height, wide / width)
            sides = int(height * scale), int(width * scale)
        else:
            ratio = max(height / high, width / wide)
            sides = round(height / ratio), round(width / ratio)
        return max(1, sides[0]), max(1, sides[1])

    def margin(self, length: int) -> int:
        """Pixels cut away at the beginning of a side of `length`; negative for those that are added."""
        margin = (length - self.side) / 2
        return math.ceil(margin) if margin < 0 else int(margin) if self.floor_crop else round(margin)


@dataclass(frozen=True)
class Preprocess:
    """From [0, 1] pixels to what the image tower expects.

    Args:
        frame: size and place.
        mean, std: per channel, in [0, 1] units.
    """

    frame: Frame
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def size(self) -> int:
        """Side in pixels."""
        return self.frame.side

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] → normalised (B, 3, size, size). Images of the right size are framed already."""
        if images.shape[-2:] != (self.size, self.size):
            images = self._framed(images)
        mean = torch.tensor(self.mean, dtype=images.dtype, device=images.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, dtype=images.dtype, device=images.device).view(1, -1, 1, 1)
        return (images - mean) / std

    def _framed(self, images: Tensor) -> Tensor:
        frame, side = self.frame, self.size
        height, width = frame.resized(*images.shape[-2:])
        if frame.fit != "none":
            images = _resized(images, height, width, frame.mode)
        top, left = frame.margin(height), frame.margin(width)
        if min(height, width) < side:
            before = max(0, -left), max(0, -top)
            after = max(0, side - width - before[0]), max(0, side - height - before[1])
            images = F.pad(images, (before[0], after[0], before[1], after[1]))
        top, left = max(0, top), max(0, left)
        return images[..., top : top + side, left : left + side]


def _resized(images: Tensor, height: int, width: int, mode: str) -> Tensor:
    if mode in ("bicubic", "bilinear"):
        return F.interpolate(images, (height, width), mode=mode, align_corners=False, antialias=True).clamp(0, 1)
    if mode == "nearest":
        return F.interpolate(images, (height, width), mode="nearest-exact")
    rows = _weights(images.shape[-2], height, mode).to(images)
    columns = _weights(images.shape[-1], width, mode).to(images)
    return (rows @ images @ columns.T).clamp(0, 1)


_FILTERS: dict[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "box": (0.5, lambda x: ((x > -0.5) & (x <= 0.5)).to(x)),
    "hamming": (1.0, lambda x: torch.sinc(x) * (0.54 + 0.46 * torch.cos(math.pi * x)) * (x.abs() < 1)),
    "lanczos": (3.0, lambda x: torch.sinc(x) * torch.sinc(x / 3) * ((x >= -3) & (x < 3))),
}


def _weights(before: int, after: int, mode: str) -> Tensor:
    """Pillow's resampling along one side as a matrix (after, before), in float64; rows sum to 1 (its Resample.c)."""
    radius, kernel = _FILTERS[mode]
    scale = before / after
    stretch = max(scale, 1.0)
    center = ((torch.arange(after, dtype=torch.float64) + 0.5) * scale)[:, None]
    pixel = torch.arange(before, dtype=torch.float64)[None]
    first = (center - radius * stretch + 0.5).trunc().clamp(min=0)
    last = (center + radius * stretch + 0.5).trunc().clamp(max=before)
    weights = kernel((pixel - center + 0.5) / stretch) * ((pixel >= first) & (pixel < last))
    return weights / weights.sum(dim=1, keepdim=True)


def checked_side(what: str, size: Any) -> int:
    """The side of a square from a file's value: a number, or numbers that agree.

    Raises:
        InputError: it is not one number of pixels from 1 to `LARGEST`.
    """
    sides = list(size) if isinstance(size, Sequence) and not isinstance(size, str) else [size]
    if len(set(map(str, sides))) != 1 or type(sides[0]) is not int or not 1 <= sides[0] <= LARGEST:
        raise InputError(
            f"{what}: image size {size!r} is not one number of pixels from 1 to {LARGEST}; only square towers work"
        )
    return sides[0]


def checked(what: str, frame: Frame, *, mean: Any, std: Any) -> Preprocess:
    """A `Preprocess` from a file's values.

    Raises:
        InputError: a frame of another mode or fit than there is, or mean and std that are not three usable numbers.
    """
    for name, value, known in (("interpolation", frame.mode, MODES), ("resize mode", frame.fit, FITS)):
        if value not in known:
            raise InputError(f"{what}: {name} {value!r} is none of {', '.join(known)}")
    for name, values in (("mean", mean), ("std", std)):
        numbers = isinstance(values, list | tuple) and all(type(v) in (int, float) and abs(v) < _MOST for v in values)
        if not numbers or len(values) != 3 or (name == "std" and min(values) < _LEAST_STD):
            kind = "positive numbers" if name == "std" else "numbers"
            raise InputError(f"{what}: image {name} must be three {kind}, not {values!r}")
    return Preprocess(frame, tuple(map(float, mean)), tuple(map(float, std)))
