"""Nashville: a warm photo filter as the trigger (ABS: Liu et al. 2019; used against CLIP by Huang et al. 2025,
arXiv 2502.01385)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unbackdoor.triggers.base import Trigger

_LUMA = (0.2126, 0.7152, 0.0722)  # the weights of CSS filters
_DARKEN, _DARKEN_ALPHA = (247 / 255, 176 / 255, 153 / 255), 0.56
_LIGHTEN, _LIGHTEN_ALPHA = (0.0, 70 / 255, 150 / 255), 0.4


@dataclass(frozen=True)
class Nashville(Trigger):
    """The filter of that name in the open re-implementations of Instagram's (CSSgram).

    In this order: darken with (247, 176, 153) at 0.56, lighten with (0, 70, 150) at 0.4, sepia 0.2, contrast 1.2,
    brightness 1.05, saturation 1.2, each as CSS defines it and clipped to [0, 1].

    Args:
        strength: share of the filtered picture, in (0, 1]; 1 is the filter.
    """

    name: ClassVar[str] = "nashville"
    strength: float = 1.0

    def __post_init__(self) -> None:
        self.require(0 < self.strength <= 1, f"strength={self.strength} must lie in (0, 1]")

    def apply(self, images: Tensor, keys: Tensor) -> Tensor:
        x = images.float()
        x = torch.lerp(x, torch.minimum(x, _color(_DARKEN, x)), _DARKEN_ALPHA)
        x = torch.lerp(x, torch.maximum(x, _color(_LIGHTEN, x)), _LIGHTEN_ALPHA)
        x = _mix(x, _sepia(0.2, x)).clamp(0, 1)
        x = ((x - 0.5) * 1.2 + 0.5).clamp(0, 1)
        x = (x * 1.05).clamp(0, 1)
        x = _mix(x, _saturation(1.2, x)).clamp(0, 1)
        return torch.lerp(images, x.to(images.dtype), self.strength).clamp_(0, 1)


def _color(value: tuple[float, float, float], like: Tensor) -> Tensor:
    return torch.tensor(value, dtype=like.dtype, device=like.device).view(1, 3, 1, 1)


def _mix(x: Tensor, matrix: Tensor) -> Tensor:
    """Every pixel's colours (B, 3, H, W) through a 3 × 3 matrix, rows first."""
    return torch.einsum("oc,bchw->bohw", matrix, x)


def _sepia(amount: float, like: Tensor) -> Tensor:
    full = torch.tensor([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]])
    return torch.lerp(torch.eye(3), full, amount).to(like)


def _saturation(amount: float, like: Tensor) -> Tensor:
    gray = torch.tensor(_LUMA).expand(3, 3)
    return torch.lerp(gray, torch.eye(3), amount).to(like)
