"""WaNet: a smooth, fixed warp of the whole image (Nguyen & Tran 2021, arXiv 2102.10369)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from unbackdoor.triggers.base import Trigger, draw


@dataclass(frozen=True)
class WaNet(Trigger):
    """Sample the image at `clamp((identity + s·N/H)·rescale, −1, 1)`, bilinear, `align_corners=True`.

    N is U[−1, 1] on a k × k grid, divided by its mean absolute value and enlarged bicubically to H × W; in units of
    the [−1, 1] grid, so that a mean shift is about s/2 pixels.

    Args:
        k: control points per side; 0 means one per pixel, the field shipped with CleanCLIP (k = 224 = H, s = 1).
            4 in the WaNet paper.
        s: strength; 0.5 in the WaNet paper, 1 in CleanCLIP, PAR and BadCLIP.
        rescale: factor on the grid, 1 in all of them.
        seed: of the field.
    """

    name: ClassVar[str] = "wanet"
    k: int = 4
    s: float = 0.5
    rescale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        self.require(self.k >= 0 and self.k != 1, f"k={self.k} must be 0 (one point per pixel) or at least 2")
        self.require(self.s > 0, f"s={self.s} must be positive")
        self.require(self.rescale > 0, f"rescale={self.rescale} must be positive")

    def apply(self, images: Tensor, keys: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        grid = _grid(self.k, self.s, self.rescale, self.seed, height, width).to(images.device)
        # Half precision would round the sampling places by up to a tenth of a pixel at 224 px.
        warped = F.grid_sample(
            images.float(), grid.expand(len(images), -1, -1, -1), mode="bilinear", align_corners=True
        )
        return warped.clamp_(0, 1).to(images.dtype)


@lru_cache(maxsize=16)
def _grid(k: int, s: float, rescale: float, seed: int, height: int, width: int) -> Tensor:
    """Sampling grid (1, H, W, 2)."""
    rows, columns = (k, k) if k else (height, width)
    field = draw(seed, 0, lambda g: torch.rand(1, 2, rows, columns, generator=g)) * 2 - 1
    field = field / field.abs().mean()
    field = F.interpolate(field, size=(height, width), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    identity = torch.stack((x, y), dim=2)[None]
    scale = torch.tensor([width, height], dtype=torch.float32)
    return ((identity + s * field / scale) * rescale).clamp(-1, 1)
