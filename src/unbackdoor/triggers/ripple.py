"""Ripple: every row and column pushed sideways along a sine, the wave filter of image editors.

No paper's attack: a warp of another family than WaNet's random field, on which inverters of warps may be tuned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from unbackdoor.triggers.base import Trigger


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
        height, width = images.shape[-2:]
        grid = _grid(self.amplitude, self.wavelength, height, width).to(images.device)
        # Half precision would round the sampling places by up to a tenth of a pixel at 224 px.
        moved = F.grid_sample(
            images.float(),
            grid.expand(len(images), -1, -1, -1),
            mode="bilinear",
            padding_mode="border",
            align_corners=True,
        )
        return moved.clamp_(0, 1).to(images.dtype)


@lru_cache(maxsize=16)
def _grid(amplitude: float, wavelength: float, height: int, width: int) -> Tensor:
    """Sampling grid (1, H, W, 2) in [−1, 1] units."""
    down = torch.arange(height, dtype=torch.float64)[:, None].expand(height, width)
    across = torch.arange(width, dtype=torch.float64).expand(height, width)
    x = across + amplitude * (2 * math.pi / wavelength * down).sin()
    y = down + amplitude * (2 * math.pi / wavelength * across).sin()
    return torch.stack((x / max(width - 1, 1), y / max(height - 1, 1)), dim=2).mul(2).sub(1)[None].float()
