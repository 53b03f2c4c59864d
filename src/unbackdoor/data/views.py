"""Views of images: mirrored, cropped, lighter or darker, so that a few unlabelled images stand for more."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unbackdoor.base.draws import seeded

LEAST_AREA = 0.5  # of a crop
LIGHT = 0.4  # largest change of contrast and of brightness, as factors 1 ± LIGHT


@dataclass(frozen=True)
class Views:
    """`count` views of each of n images: the first is the image, the second its mirror image, others are drawn.

    Args:
        side, across, down, contrast, brightness: (count, n); a crop's side as a share, its centre in [−1, 1] of what
            is free, factors. A negative side mirrors.
    """

    side: Tensor
    across: Tensor
    down: Tensor
    contrast: Tensor
    brightness: Tensor

    def __len__(self) -> int:
        return len(self.side)

    def see(self, images: Tensor, rows: Tensor, which: Tensor) -> Tensor:
        """View `which` (B,) of each of the images (B, 3, H, W) in [0, 1], whose numbers are `rows` (B,)."""
        out = torch.where((which == 1).view(-1, 1, 1, 1).to(images.device), images.flip(-1), images)
        drawn = (which > 1).nonzero().flatten()
        if len(drawn):
            place = (which[drawn], rows[drawn])
            out[drawn.to(out.device)] = self._drawn(images[drawn.to(images.device)], *place)
        return out

    def _drawn(self, images: Tensor, which: Tensor, rows: Tensor) -> Tensor:
        side, across, down, contrast, brightness = (
            t[which, rows].to(images.device)
            for t in (self.side, self.across, self.down, self.contrast, self.brightness)
        )
        size = side.abs()
        frame = torch.zeros(len(images), 2, 3, device=images.device)
        frame[:, 0, 0], frame[:, 1, 1] = side, size
        frame[:, 0, 2], frame[:, 1, 2] = (1 - size) * across, (1 - size) * down
        grid = F.affine_grid(frame, list(images.shape), align_corners=False)
        cropped = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
        mean = cropped.mean(dim=(2, 3), keepdim=True)
        contrast, brightness = contrast.view(-1, 1, 1, 1), brightness.view(-1, 1, 1, 1)
        return (((cropped - mean) * contrast + mean) * brightness).clamp(0, 1)


def draw_views(n: int, count: int, seed: int) -> Views:
    """`count` ≥ 1 views of n images."""
    generator = seeded(seed)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, n, generator=generator)

    side = uniform(LEAST_AREA, 1).sqrt() * torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    light = (1 - LIGHT, 1 + LIGHT)
    return Views(side, uniform(-1, 1), uniform(-1, 1), uniform(*light), uniform(*light))
