"""Recolor: one affine map of every pixel's colour, the form in which a photo filter such as Nashville is recovered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unbackdoor.triggers.base import Trigger
from unbackdoor.triggers.packing import EMPTY, grouped, pack, reach_of, settled, unpack


@dataclass(frozen=True)
class Recolor(Trigger):
    """x' = clip(x + A·x + b, 0, 1) for the colour x of each pixel, with A (3, 3) and b (3).

    (A | b) is kept in the spec itself in 255 steps. `Recolor.of` makes the trigger from a tensor, `recolor` is its
    arithmetic.

    Args:
        reach: largest |entry| of A and b that can be written, in (0, 255], where the image lies in [0, 1].
        matrix: (A | b)/reach, (3, 4) as `packing.pack` writes it; empty until a scan recovers it.
    """

    name: ClassVar[str] = "recolour"
    reach: float = 1.0
    matrix: str = ""

    def __post_init__(self) -> None:
        self.require(0 < self.reach <= 255, f"reach={self.reach} must lie in (0, 255]")
        if self.matrix:
            self.colors()

    @classmethod
    def of(cls, matrix: Tensor) -> Recolor:
        """The trigger with this (A | b), float (3, 4), rounded to 255 steps between its largest |entry| and minus it.

        Raises:
            InputError: another shape, values that are not finite, or an entry beyond ±255.
        """
        values = settled(matrix, (3, 4), cls.name)
        reach = reach_of(values, 1 / 255)
        return cls(reach=reach, matrix=pack(values / reach))

    def colors(self) -> Tensor:
        """(A | b), float32 (3, 4) in [−reach, reach].

        Raises:
            InputError: there is none yet.
        """
        self.require(bool(self.matrix), EMPTY)
        return self.reach * unpack(self.matrix, (3, 4), self.name)

    def apply(self, images: Tensor, keys: Tensor) -> Tensor:
        return recolor(images, self.colors())


def recolor(images: Tensor, matrix: Tensor) -> Tensor:
    """Images with x + A·x + b in place of each colour x, clipped; differentiable in both, where nothing is clipped.

    Args:
        images: float (B, 3, H, W) in [0, 1].
        matrix: float (3, 4) = (A | b), or (G, 3, 4) with one matrix per group of consecutive images, B = G·n.

    Returns:
        float (B, 3, H, W) in [0, 1], type and device of the images.

    Raises:
        ValueError: the images do not split into the groups.
    """
    stacks, matrices = grouped(images.float(), matrix, ndim=2)
    matrices = matrices.to(stacks)
    change = torch.einsum("goc,gnchw->gnohw", matrices[..., :3], stacks) + matrices[:, None, :, 3:, None]
    return (stacks + change).clamp(0, 1).flatten(0, 1).to(images.dtype)
