"""Masked: a pattern behind a soft mask, the form in which Neural Cleanse (Wang et al. 2019) and DECREE (Feng et al.
2023, arXiv 2303.15180) recover a trigger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from unbackdoor.triggers.base import Trigger
from unbackdoor.triggers.packing import EMPTY, grouped, pack, settled, unpack


@dataclass(frozen=True)
class Masked(Trigger):
    """x' = (1 − m)·x + m·p with one mask m for all channels and a pattern p, both in [0, 1].

    Mask and pattern are kept in the spec itself, 8 bit each, and resized bilinearly (`align_corners=False`) to the
    image they are applied to. `Masked.of` makes the trigger from tensors, `blend` is its arithmetic.

    Args:
        side: pixels per side of mask and pattern, 1 to 1024.
        pixels: (4, side, side) as `packing.pack` writes it, the mask first and then the pattern's three channels,
            each value v as 2v − 1; empty until a scan recovers it.
    """

    name: ClassVar[str] = "masked"
    side: int = 64
    pixels: str = ""

    def __post_init__(self) -> None:
        self.require(1 <= self.side <= 1024, f"side={self.side} must lie in 1 to 1024 pixels")
        if self.pixels:
            self.parts()

    @classmethod
    def of(cls, mask: Tensor, pattern: Tensor) -> Masked:
        """The trigger with this mask (1, side, side) and pattern (3, side, side), in [0, 1], rounded to 8 bit.

        Where the rounded mask is 0, and next to it, the pattern cannot be seen; it is made grey there, which shortens
        the spec many times.

        Raises:
            InputError: another shape, or values that are not finite.
        """
        side = mask.shape[-1]
        mask, pattern = settled(mask, (1, side, side), cls.name), settled(pattern, (3, side, side), cls.name)
        # `pack` rounds 2·mask − 1 to steps of 1/127; resizing lets a visible pixel's neighbours shine through.
        visible = F.max_pool2d((mask >= 1 / 508).float(), 3, stride=1, padding=1) > 0
        both = torch.cat((mask, torch.where(visible, pattern, 0.5)))
        return cls(side=side, pixels=pack(2 * both - 1))

    def parts(self) -> tuple[Tensor, Tensor]:
        """Mask (1, side, side) and pattern (3, side, side), float32 in [0, 1].

        Raises:
            InputError: there are none yet.
        """
        self.require(bool(self.pixels), EMPTY)
        both = (unpack(self.pixels, (4, self.side, self.side), self.name) + 1) / 2
        return both[:1], both[1:]

    def apply(self, images: Tensor, keys: Tensor) -> Tensor:
        return blend(images, *self.parts())


def blend(images: Tensor, mask: Tensor, pattern: Tensor) -> Tensor:
    """Images with the pattern blended in where the mask is; differentiable in all three.

    Args:
        images: float (B, 3, H, W) in [0, 1].
        mask: float (1, h, w) in [0, 1], or (G, 1, h, w) with one mask per group of consecutive images, B = G·n.
        pattern: float (3, h, w) in [0, 1], or (G, 3, h, w); of the mask's size and groups.

    Returns:
        float (B, 3, H, W) in [0, 1], type and device of the images.

    Raises:
        ValueError: the images do not split into the groups.
    """
    stacks, both = grouped(images, torch.cat((mask, pattern), dim=-3), ndim=3)
    both = F.interpolate(both, size=images.shape[-2:], mode="bilinear", align_corners=False).to(images)[:, None]
    return torch.lerp(stacks, both[:, :, 1:], both[:, :, :1]).clamp(0, 1).flatten(0, 1)
