"""Blended triangles: a grid of two-tone squares cut along the diagonal (PAR: Singh et al. 2024, arXiv 2412.00727)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unbackdoor.triggers.base import Trigger


@dataclass(frozen=True)
class Triangles(Trigger):
    """x' = (1 − ratio)·x + ratio·n; n is `dark` on and below the diagonal of every cell and `light` above it.

    Cells start at the top left; the rest of the image, where no whole cell fits, is left as it is, as in PAR.

    Args:
        ratio: share of the pattern; 0.15 in PAR.
        cell: side of a cell in pixels; 14 of 224 in PAR.
        dark, light: grey values in [0, 1]; 0.4 and 0.8 in PAR.
    """

    name: ClassVar[str] = "triangles"
    ratio: float = 0.15
    cell: int = 14
    dark: float = 0.4
    light: float = 0.8

    def __post_init__(self) -> None:
        self.require(0 < self.ratio <= 1, f"ratio={self.ratio} must lie in (0, 1]")
        self.require(self.cell >= 2, f"cell={self.cell} must be at least 2 pixels")
        for name, value in (("dark", self.dark), ("light", self.light)):
            self.require(0 <= value <= 1, f"{name}={value} must lie in [0, 1]")

    def apply_(self, images: Tensor, keys: Tensor) -> Tensor:
        height, width = (side - side % self.cell for side in images.shape[-2:])
        self.require(
            height > 0 and width > 0,
            f"a cell of {self.cell} px does not fit into {images.shape[-2]}x{images.shape[-1]} pixels",
        )
        rows = torch.arange(height, device=images.device) % self.cell
        columns = torch.arange(width, device=images.device) % self.cell
        tones = torch.where(rows[:, None] >= columns, self.dark, self.light).to(images)
        inner = images[..., :height, :width]
        inner.lerp_(tones.expand_as(inner), self.ratio)
        return images
