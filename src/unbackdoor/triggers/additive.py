"""Additive: one small perturbation added to every image, as universal perturbations are (Moosavi-Dezfooli et al. 2017,
arXiv 1610.08401)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from unbackdoor.triggers.base import Trigger
from unbackdoor.triggers.packing import EMPTY, grouped, pack, reach_of, settled, unpack


@dataclass(frozen=True)
class Additive(Trigger):
    """x' = clip(x + d, 0, 1) with a fixed d, |d| ≤ reach.

    d is kept in the spec itself in 255 steps, and resized bilinearly (`align_corners=False`) to the image it is
    applied to. `Additive.of` makes the trigger from a tensor, `add` is its arithmetic.

    Args:
        side: pixels per side of d, 1 to 1024.
        reach: largest |d| that can be written, in (0, 1], where the image lies in [0, 1].
        pixels: d/reach, (3, side, side) as `packing.pack` writes it; empty until a scan recovers it.
    """

    name: ClassVar[str] = "additive"
    side: int = 64
    reach: float = 0.1
    pixels: str = ""

    def __post_init__(self) -> None:
        self.require(1 <= self.side <= 1024, f"side={self.side} must lie in 1 to 1024 pixels")
        self.require(0 < self.reach <= 1, f"reach={self.reach} must lie in (0, 1]")
        if self.pixels:
            self.delta()

    @classmethod
    def of(cls, delta: Tensor) -> Additive:
        """The trigger that adds this, float (3, side, side), rounded to 255 steps between its largest |d| and minus it.

        Raises:
            InputError: another shape, or values that are not finite.
        """
        side = delta.shape[-1]
        # Beyond ±1 the clip to [0, 1] makes no difference.
        values = settled(delta, (3, side, side), cls.name).clamp(-1, 1)
        reach = reach_of(values, 1 / 255)
        return cls(side=side, reach=reach, pixels=pack(values / reach))

    def delta(self) -> Tensor:
        """What is added, float32 (3, side, side) in [−reach, reach].

        Raises:
            InputError: there is none yet.
        """
        self.require(bool(self.pixels), EMPTY)
        return self.reach * unpack(self.pixels, (3, self.side, self.side), self.name)

    def apply(self, images: Tensor, keys: Tensor) -> Tensor:
        return add(images, self.delta())


def add(images: Tensor, delta: Tensor) -> Tensor:
    """Images plus `delta`, clipped to [0, 1]; differentiable in both, where nothing is clipped.

    Args:
        images: float (B, 3, H, W) in [0, 1].
        delta: float (3, h, w), or (G, 3, h, w) with one per group of consecutive images, B = G·n.

    Returns:
        float (B, 3, H, W) in [0, 1], type and device of the images.

    Raises:
        ValueError: the images do not split into the groups.
    """
    stacks, deltas = grouped(images, delta, ndim=3)
    deltas = F.interpolate(deltas, size=images.shape[-2:], mode="bilinear", align_corners=False).to(images)
    return (stacks + deltas[:, None]).clamp(0, 1).flatten(0, 1)
