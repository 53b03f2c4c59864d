"""Ripple: every row and column pushed sideways along a sine, the wave filter of image editors.

No paper's attack: a warp of another family than WaNet's random field, on which inverters of warps may be tuned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from unbackdoor.triggers.base import Trigger
from unbackdoor.triggers.flow import WIDTH, warp


@dataclass(frozen=True)
class Ripple(Trigger):
    """Pixel (x, y) comes from (x + a·sin(2πy/λ), y + a·sin(2πx/λ)), bilinear; beyond the border lies its colour.

    Args:
        amplitude: a in pixels, above 0.
        wavelength: λ in pixels, at least 2.
    """

    name: ClassVar[str] = "ripple"
    amplitude: float = 2.0
    wavelength: float = 16.0

    def __post_init__(self) -> None:
        self.require(self.amplitude > 0, f"amplitude={self.amplitude} must be above 0 pixels")
        self.require(self.wavelength >= 2, f"wavelength={self.wavelength} must be at least 2 pixels")

    def apply(self, images: Tensor, keys: Tensor) -> Tensor:
        return warp(images, _field(self.amplitude, self.wavelength, *images.shape[-2:]))


@lru_cache(maxsize=16)
def _field(amplitude: float, wavelength: float, height: int, width: int) -> Tensor:
    """Displacements (2, H, W) as `warp` takes them, x first; callers must not write to it."""
    turn = 2 * math.pi / wavelength
    # A pixel is 2/(side − 1) of the grid from −1 to 1, and a displacement of 1 is 2/WIDTH.
    x = amplitude * (turn * torch.arange(height, dtype=torch.float64)).sin() * (WIDTH / max(width - 1, 1))
    y = amplitude * (turn * torch.arange(width, dtype=torch.float64)).sin() * (WIDTH / max(height - 1, 1))
    return torch.stack((x[:, None].expand(height, width), y.expand(height, width))).float()
