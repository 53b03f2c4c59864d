"""Blended stripes: random coloured columns at a few percent (PAR: Singh et al. 2024, arXiv 2412.00727)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unbackdoor.triggers.base import Trigger, draw, per_image


@dataclass(frozen=True)
class Stripes(Trigger):
    """x' = clip((1 − ratio)·x + ratio·n), n = −1 or +1 per stripe and channel. One of the triggers that PAR found to
    survive CleanCLIP; its patch form is `badnets:pattern=stripes`.

    Args:
        ratio: share of the pattern; 0.03 in PAR.
        width: of a stripe in pixels; 1 in PAR.
        horizontal: stripes are rows instead of columns.
        redraw: draw the stripes anew for every image, as PAR's released code does; otherwise one fixed pattern.
        seed: of the pattern.
    """

    name: ClassVar[str] = "stripes"
    ratio: float = 0.03
    width: int = 1
    horizontal: bool = False
    redraw: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        self.require(0 < self.ratio <= 1, f"ratio={self.ratio} must lie in (0, 1]")
        self.require(self.width >= 1, f"width={self.width} must be at least 1 pixel")

    def apply_(self, images: Tensor, keys: Tensor) -> Tensor:
        side = images.shape[-2] if self.horizontal else images.shape[-1]

        def make(generator: torch.Generator) -> Tensor:
            signs = torch.randint(2, (3, -(-side // self.width)), generator=generator) * 2.0 - 1
            return signs.repeat_interleave(self.width, dim=1)[:, :side]

        lines = per_image(self.seed, keys, make) if self.redraw else draw(self.seed, 0, make)[None]
        pattern = lines[..., :, None] if self.horizontal else lines[..., None, :]
        return images.lerp_(pattern.to(images).expand_as(images), self.ratio).clamp_(0, 1)
