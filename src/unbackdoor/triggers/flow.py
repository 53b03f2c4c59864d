"""Flow: a warp given by displacements on a grid, the form in which one such as WaNet's is recovered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from unbackdoor.triggers.base import Trigger
from unbackdoor.triggers.packing import EMPTY, grouped, pack, reach_of, settled, unpack

WIDTH = 64  # displacements are in pixels of an image this wide, so that they mean the same at every size


@dataclass(frozen=True)
class Flow(Trigger):
    """Sample the image at identity + 2·v/64 in units of the [−1, 1] grid, bilinear, `align_corners=True`.

    v are displacements (x, y) on a points × points grid, enlarged bicubically (`align_corners=True`) to H × W;
    what lies outside the image has the colour of its border. v is kept in the spec itself in 255 steps.
    `Flow.of` makes the trigger from a tensor, `warp` is its arithmetic.

    Args:
        points: control points per side, 2 to 256.
        reach: largest |v| at a control point that can be written, in (0, 64], in pixels of a 64-pixel-wide image.
        field: v/reach, (2, points, points) as `packing.pack` writes it, x first; empty until a scan recovers it.
    """

    name: ClassVar[str] = "flow"
    points: int = 8
    reach: float = 2.0
    field: str = ""

    def __post_init__(self) -> None:
        self.require(2 <= self.points <= 256, f"points={self.points} must lie in 2 to 256")
        self.require(0 < self.reach <= WIDTH, f"reach={self.reach} must lie in (0, {WIDTH}]")
        if self.field:
            self.displacements()

    @classmethod
    def of(cls, field: Tensor) -> Flow:
        """The trigger with these displacements, float (2, points, points) in pixels of a 64-pixel-wide image.

        They are rounded to 255 steps between the largest |v| and minus it.

        Raises:
            InputError: another shape, values that are not finite, or displacements of more than 64 pixels.
        """
        points = field.shape[-1]
        values = settled(field, (2, points, points), cls.name)
        reach = reach_of(values, 0.01)
        return cls(points=points, reach=reach, field=pack(values / reach))

    def displacements(self) -> Tensor:
        """v, float32 (2, points, points) in pixels of a 64-pixel-wide image, x first.

        Raises:
            InputError: there are none yet.
        """
        self.require(bool(self.field), EMPTY)
        return self.reach * unpack(self.field, (2, self.points, self.points), self.name)

    def apply(self, images: Tensor, keys: Tensor) -> Tensor:
        return warp(images, self.displacements())


def warp(images: Tensor, field: Tensor) -> Tensor:
    """Images sampled where the enlarged field points to; differentiable in both.

    Args:
        images: float (B, 3, H, W) in [0, 1].
        field: float (2, h, w), displacements (x, y) in pixels of a 64-pixel-wide image, or (G, 2, h, w) with one
            field per group of consecutive images, B = G·n.

    Returns:
        float (B, 3, H, W) in [0, 1], type and device of the images.

    Raises:
        ValueError: the images do not split into the groups.
    """
    height, width = images.shape[-2:]
    stacks, fields = grouped(images, field, ndim=3)
    # Half precision would round the sampling places by up to a tenth of a pixel at 224 px.
    fields = fields.to(images.device, torch.float32)
    fields = F.interpolate(fields, size=(height, width), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height, device=images.device),
        torch.linspace(-1, 1, width, device=images.device),
        indexing="ij",
    )
    grid = torch.stack((x, y), dim=2) + fields * (2 / WIDTH)
    grid = grid[:, None].expand(-1, stacks.shape[1], -1, -1, -1).flatten(0, 1)
    warped = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=True)
    return warped.clamp(0, 1).to(images.dtype)
