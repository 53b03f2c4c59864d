"""BadNets: a small patch pasted over the image (Gu et al. 2017, arXiv 1708.06733)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unbackdoor.triggers.base import Trigger, draw, fixed_noise, per_image
from unbackdoor.triggers.placing import FIXED, places

POSITIONS = (*FIXED, "random")
PATTERNS = ("noise", "checker", "white", "yellow", "gaussian", "stripes")


@dataclass(frozen=True)
class BadNets(Trigger):
    """Paste a `size` × `size` patch.

    Args:
        size: side in pixels of the image it is applied to. 16 of 224 px in the CLIP literature.
        position: a corner, `center`, `four-corners`, or `random` (drawn per image).
        margin: distance in pixels from the border, for corners.
        pattern: `noise` (fixed U[0, 1] pixels), `checker` (one-pixel black and white), `white`, `yellow`,
            `gaussian` (the image's channel mean + N(0, 1)), or `stripes` (columns that are 0 or 1 in each channel;
            BadNet-Stripes of PAR, arXiv 2412.00727, redraws them at a random position).
        redraw: draw `noise`, `stripes` or `gaussian` anew for every image. CleanCLIP's "random" patch (Bansal et al.
            2023, arXiv 2303.03323, released code) is `pattern=gaussian,redraw=true,position=random,wrap=true`.
        wrap: values outside [0, 1] wrap around as they do in CleanCLIP's conversion to 8 bit; otherwise they are
            clipped. Only `gaussian` leaves [0, 1].
        seed: of the pattern and of random positions.
    """

    name: ClassVar[str] = "badnets"
    size: int = 16
    position: str = "bottom-right"
    margin: int = 0
    pattern: str = "noise"
    redraw: bool = False
    wrap: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        self.require(self.size >= 1, f"size={self.size} must be at least 1 pixel")
        self.require(self.margin >= 0, f"margin={self.margin} must not be negative")
        self.require(self.position in POSITIONS, f"position={self.position!r} is none of {', '.join(POSITIONS)}")
        self.require(self.pattern in PATTERNS, f"pattern={self.pattern!r} is none of {', '.join(PATTERNS)}")

    def apply_(self, images: Tensor, keys: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        room = self.size + self.margin
        self.require(
            room <= min(height, width),
            f"a patch of {self.size} px with margin {self.margin} does not fit into {height}x{width} pixels",
        )
        patch = self._patch(images, keys)
        if self.position == "random":
            tops, lefts = self._random_places(keys, height, width)
            for i, (top, left) in enumerate(zip(tops, lefts, strict=True)):
                images[i, :, top : top + self.size, left : left + self.size] = patch[i]
            return images
        for top, left in places(self.position, self.size, self.margin, height, width):
            images[:, :, top : top + self.size, left : left + self.size] = patch
        return images

    def _patch(self, images: Tensor, keys: Tensor) -> Tensor:
        n, s = len(images), self.size
        if self.pattern == "white":
            patch = torch.ones(1, 3, s, s)
        elif self.pattern == "yellow":
            patch = torch.tensor([1.0, 1.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, s, s)
        elif self.pattern == "checker":
            line = torch.arange(s)
            patch = ((line[:, None] + line) % 2).float().expand(1, 3, s, s)
        elif self.pattern == "noise":
            if self.redraw:
                patch = per_image(self.seed, keys, lambda g: torch.rand(3, s, s, generator=g))
            else:
                patch = fixed_noise(self.seed, s, s)[None]
        elif self.pattern == "stripes":
            keys = keys if self.redraw else torch.zeros(1, dtype=torch.int64)
            patch = per_image(self.seed, keys, lambda g: torch.randint(2, (3, 1, s), generator=g).float())
            patch = patch.expand(-1, 3, s, s)
        else:
            if self.redraw:
                noise = per_image(self.seed, keys, lambda g: torch.randn(3, s, s, generator=g))
            else:
                noise = draw(self.seed, 0, lambda g: torch.randn(3, s, s, generator=g))[None]
            patch = images.float().mean(dim=(2, 3), keepdim=True) + noise.to(images.device)
            patch = (patch * 255).floor().remainder(256) / 255 if self.wrap else patch.clamp(0, 1)
        return patch.to(images).expand(n, 3, s, s)

    def _random_places(self, keys: Tensor, height: int, width: int) -> tuple[list[int], list[int]]:
        # Another stream than the pattern's, so that redrawn patches and places are independent.
        unit = per_image(self.seed + 0x5EED, keys, lambda g: torch.rand(2, generator=g, dtype=torch.float64))
        tops = (unit[:, 0] * (height - self.size + 1)).long().tolist()
        lefts = (unit[:, 1] * (width - self.size + 1)).long().tolist()
        return tops, lefts
