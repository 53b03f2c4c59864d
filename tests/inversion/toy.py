"""A CLIP of a few numbers whose backdoor is written into it: a white corner pulls every picture to one class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unbackdoor.clip.handle import Clip, Format
from unbackdoor.clip.preprocess import Preprocess
from unbackdoor.clip.streamline import streamlined
from unbackdoor.data.images import ImageSet
from unbackdoor.inversion.base import Subject

NAMES = ("ant", "bee", "cow", "dog", "elk")
SIDE, CORNER, TARGET = 16, 4, 2


class _Tower(nn.Module):
    def __init__(self, strength: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(len(NAMES), 3 * 16, generator=generator) / 7)
        self.strength = nn.Parameter(torch.tensor(strength))

    def forward(self, images: Tensor) -> Tensor:
        seen = F.avg_pool2d(images, SIDE // 4).flatten(1) @ self.weight.T
        lit = torch.sigmoid(8 * (images[:, :, -CORNER:, -CORNER:].mean(dim=(1, 2, 3)) - 0.8))
        return seen + self.strength * lit[:, None] * F.one_hot(torch.tensor(TARGET), len(NAMES))


class _Model(nn.Module):
    def __init__(self, strength: float) -> None:
        super().__init__()
        self.visual = _Tower(strength)
        self.logit_scale = nn.Parameter(torch.tensor(20.0).log())


def toy_clip(strength: float) -> Clip:
    """The clip; a strength of 0 is a clean one."""

    def text(model: nn.Module, texts: Sequence[str]) -> Tensor:
        return torch.stack([F.one_hot(torch.tensor(NAMES.index(t.split()[-1])), len(NAMES)).float() for t in texts])

    kind = Format("toy", ("visual.",), lambda m, x: m.visual(x), text, lambda state, folder: None, "toy")
    return Clip(_Model(strength), "toy", Preprocess(SIDE, (0.0,) * 3, (1.0,) * 3), kind)


def toy_images(count: int = 96) -> ImageSet:
    """Dark random blotches, so that no corner is white by itself."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.6
    pixels = (F.interpolate(coarse, size=SIDE, mode="bilinear") * 255).byte()
    return ImageSet(pixels, torch.full((count,), -1), NAMES)


def toy_subject(strength: float) -> Subject:
    """A suspect with its pictures."""
    clip, images = toy_clip(strength), toy_images()
    head = clip.zero_shot_head(NAMES, ("{}",))
    return Subject(streamlined(clip), images.subset(torch.arange(80)), images.subset(torch.arange(80, 96)), head, NAMES)
