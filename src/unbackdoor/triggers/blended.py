"""Blended injection: a faint whole-image pattern (Chen et al. 2017, arXiv 1712.05526)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unbackdoor.triggers.base import Trigger, fixed_noise, per_image


@dataclass(frozen=True)
class Blended(Trigger):
    """x' = (1 − ratio)·x + ratio·n with n ~ U[0, 1] of the image's size.

    Args:
        ratio: share of the pattern, 0 to 1; 0.2 throughout the literature.
        redraw: draw the noise anew for every image, as CleanCLIP's and PAR's released code do; otherwise one fixed
            noise picture, as in BackdoorBench and in Chen et al.
        seed: of the noise.
    """

    name: ClassVar[str] = "blended"
    ratio: float = 0.2
    redraw: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        self.require(0 < self.ratio <= 1, f"ratio={self.ratio} must lie in (0, 1]")

    def apply_(self, images: Tensor, keys: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if self.redraw:
            noise = per_image(self.seed, keys, lambda g: torch.rand(3, height, width, generator=g))
        else:
            noise = fixed_noise(self.seed, height, width)[None]
        return images.lerp_(noise.to(images).expand_as(images), self.ratio).clamp_(0, 1)
