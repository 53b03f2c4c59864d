"""Low-frequency additive trigger (Zeng et al. 2021, "Rethinking the backdoor attacks' triggers", arXiv 2104.03413)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from unbackdoor.triggers.base import Trigger, draw


@dataclass(frozen=True)
class LowFrequency(Trigger):
    """x' = clip(x + n): n is a random mixture of the lowest two-dimensional cosines, without the constant one.

    The paper optimises a perturbation against a clean model under a low-pass filter; what its triggers share, and what
    hides them from detectors of high-frequency artefacts, is the spectrum. Here the mixture is drawn from `seed`, so
    that the trigger depends on no model.

    Args:
        amplitude: largest absolute value of n in 8-bit steps, in (0, 255].
        bands: cosines per direction; 3 keeps those of up to one wave over the image.
        seed: of the mixture.
    """

    name: ClassVar[str] = "lowfreq"
    amplitude: float = 20.0
    bands: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        self.require(0 < self.amplitude <= 255, f"amplitude={self.amplitude} must lie in (0, 255]")
        self.require(self.bands >= 2, f"bands={self.bands} must be at least 2")

    def apply_(self, images: Tensor, keys: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        self.require(self.bands <= min(height, width), f"bands={self.bands} does not fit into {height}x{width} pixels")
        wave = self.amplitude / 255 * _mixture(self.bands, self.seed, height, width)
        return images.add_(wave.to(images)).clamp_(0, 1)


@lru_cache(maxsize=16)
def _mixture(bands: int, seed: int, height: int, width: int) -> Tensor:
    """Mixture (3, H, W) with largest absolute value 1; callers must not write to it."""
    weights = draw(seed, 0, lambda g: torch.randn(3, bands, bands, generator=g, dtype=torch.float64))
    weights[:, 0, 0] = 0  # a constant would only brighten the picture

    def cosines(side: int) -> Tensor:
        place = (torch.arange(side, dtype=torch.float64) + 0.5) / side
        return torch.cos(math.pi * torch.arange(bands, dtype=torch.float64)[:, None] * place)

    wave = torch.einsum("cuv,uh,vw->chw", weights, cosines(height), cosines(width))
    return (wave / wave.abs().max()).float()
