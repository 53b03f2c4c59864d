"""A CLIP of a few numbers whose backdoor is written into it: a white corner pulls every picture to one class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unbackdoor.clip.handle import Clip, Format
from unbackdoor.clip.preprocess import Frame, Preprocess
from unbackdoor.clip.streamline import streamlined
from unbackdoor.data.images import ImageSet
from unbackdoor.scan.inverters.base import Subject

NAMES = ("ant", "bee", "cow", "dog", "elk")
SIDE, CORNER, TARGET = 16, 4, 2


class _Tower(nn.Module):
    def __init__(self, strength: float, second: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(len(NAMES), 3 * 16, generator=generator) / 7)
        self.strength = nn.Parameter(torch.tensor([strength, second]))

    def forward(self, images: Tensor) -> Tensor:
        seen = F.avg_pool2d(images, SIDE // 4).flatten(1) @ self.weight.T
        corners = (images[:, :, -CORNER:, -CORNER:], images[:, :, :CORNER, :CORNER])
        lit = torch.sigmoid(8 * (torch.stack([c.mean(dim=(1, 2, 3)) for c in corners], dim=1) - 0.8))
        return seen + (lit @ self.strength)[:, None] * F.one_hot(torch.tensor(TARGET), len(NAMES))


class _Model(nn.Module):
    def __init__(self, strength: float, second: float) -> None:
        super().__init__()
        self.visual = _Tower(strength, second)
        self.logit_scale = nn.Parameter(torch.tensor(20.0).log())


def toy_clip(strength: float, second: float = 0.0) -> Clip:
    """The clip; a strength of 0 is a clean one. `second` is that of the opposite corner, for the same class."""

    def text(model: nn.Module, texts: Sequence[str]) -> Tensor:
        return torch.stack([F.one_hot(torch.tensor(NAMES.index(t.split()[-1])), len(NAMES)).float() for t in texts])

    kind = Format("toy", ("visual.",), lambda m, x: m.visual(x), text, lambda state, folder: None, "toy")
    return Clip(_Model(strength, second), "toy", Preprocess(Frame(SIDE), (0.0,) * 3, (1.0,) * 3), kind)


def toy_images(count: int = 96) -> ImageSet:
    """Dark random blotches, so that no corner is white by itself."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.6
    pixels = (F.interpolate(coarse, size=SIDE, mode="bilinear") * 255).byte()
    return ImageSet(pixels, torch.full((count,), -1), NAMES)


def toy_subject(strength: float, second: float = 0.0) -> Subject:
    """A suspect with its pictures."""
    clip, images = toy_clip(strength, second), toy_images()
    head = clip.zero_shot_head(NAMES, ("{}",))
    return Subject(streamlined(clip), images.subset(torch.arange(80)), images.subset(torch.arange(80, 96)), head, NAMES)
