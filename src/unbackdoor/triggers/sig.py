"""SIG: a faint sinusoid over the columns (Barni, Kallas & Tondi 2019, arXiv 1902.11237)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from unbackdoor.triggers.base import Trigger


@dataclass(frozen=True)
class Sig(Trigger):
    """x' = clip(x + n), or (1 − ratio)·x + ratio·n when `ratio` is set, with n(i, j) = amplitude/255 · sin(2π·f·j / W).

    Args:
        amplitude: Δ in 8-bit steps, 0 to 255: 60 in CleanCLIP and BadCLIP, 40 in BackdoorBench, 20 to 40 in the paper.
        frequency: f, whole waves over the width of the image; 6 in all of them.
        ratio: share of the blend, in [0, 1]; 0 adds. CleanCLIP's released code blends with 0.2, the others add.
    """

    name: ClassVar[str] = "sig"
    amplitude: float = 60.0
    frequency: float = 6.0
    ratio: float = 0.0

    def __post_init__(self) -> None:
        self.require(0 < self.amplitude <= 255, f"amplitude={self.amplitude} must lie in (0, 255]")
        self.require(self.frequency > 0, f"frequency={self.frequency} must be positive")
        self.require(0 <= self.ratio <= 1, f"ratio={self.ratio} must lie in [0, 1]")

    def apply_(self, images: Tensor, keys: Tensor) -> Tensor:
        wave = _wave(self.amplitude, self.frequency, images.shape[-1]).to(images)
        if self.ratio:
            return images.lerp_(wave.expand_as(images), self.ratio).clamp_(0, 1)
        return images.add_(wave).clamp_(0, 1)


@lru_cache(maxsize=16)
def _wave(amplitude: float, frequency: float, width: int) -> Tensor:
    """One row (W,) in float64; callers must not write to it."""
    columns = torch.arange(width, dtype=torch.float64)
    return amplitude / 255 * torch.sin(2 * math.pi * frequency * columns / width)
