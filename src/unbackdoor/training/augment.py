"""Random views of image batches and captions; all randomness comes from the generator that is passed in.

Images are float (B, 3, H, W) in [0, 1] and stay so; every image of a batch draws its own parameters.
"""

from __future__ import annotations

import math
import random

import torch
import torch.nn.functional as F
from torch import Tensor


def _uniform(like: Tensor, generator: torch.Generator, low: float, high: float) -> Tensor:
    """One number per image, (B, 1, 1, 1)."""
    drawn = torch.rand(len(like), 1, 1, 1, generator=generator, device=like.device, dtype=like.dtype)
    return low + (high - low) * drawn


def _sometimes(images: Tensor, changed: Tensor, generator: torch.Generator, p: float) -> Tensor:
    return torch.where(_uniform(images, generator, 0, 1) < p, changed, images)


def crop_flip_turn(
    images: Tensor,
    generator: torch.Generator,
    *,
    area: tuple[float, float] = (0.5, 1.0),
    degrees: float = 0.0,
    shear: float = 0.0,
) -> Tensor:
    """A random part of `area` (shares of the image), half of them mirrored, turned and sheared; one resampling."""
    n, flat = len(images), (-1,)
    side = _uniform(images, generator, *area).sqrt().reshape(flat)
    stretch = _uniform(images, generator, math.log(3 / 4) / 2, math.log(4 / 3) / 2).exp().reshape(flat)
    wide, high = (side * stretch).clamp(max=1), (side / stretch).clamp(max=1)
    sign = torch.where(_uniform(images, generator, 0, 1).reshape(flat) < 0.5, -1.0, 1.0)
    angle = _uniform(images, generator, -math.radians(degrees), math.radians(degrees)).reshape(flat)
    slant = _uniform(images, generator, -shear, shear).reshape(flat)
    across = _uniform(images, generator, -1, 1).reshape(flat) * (1 - wide)
    down = _uniform(images, generator, -1, 1).reshape(flat) * (1 - high)
    theta = images.new_zeros(n, 2, 3)
    theta[:, 0, 0] = sign * wide * angle.cos()
    theta[:, 0, 1] = high * (slant - angle.sin())
    theta[:, 1, 0] = sign * wide * angle.sin()
    theta[:, 1, 1] = high * angle.cos()
    theta[:, 0, 2], theta[:, 1, 2] = across, down
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False).clamp(0, 1)


def _gray(images: Tensor) -> Tensor:
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device, dtype=images.dtype)
    return (images * weights.view(1, 3, 1, 1)).sum(dim=1, keepdim=True).expand_as(images)


def color_jitter(images: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Brightness, contrast and saturation, each times a factor in 1 ± strength; hue is left alone."""
    low, high = max(0.0, 1 - strength), 1 + strength
    images = (images * _uniform(images, generator, low, high)).clamp(0, 1)
    middle = _gray(images).mean(dim=(1, 2, 3), keepdim=True)
    images = torch.lerp(middle.expand_as(images), images, _uniform(images, generator, low, high)).clamp(0, 1)
    return torch.lerp(_gray(images), images, _uniform(images, generator, low, high)).clamp(0, 1)


def strong_view(images: Tensor, generator: torch.Generator) -> Tensor:
    """Of the strength of AutoAugment's ImageNet policies, whose operations it draws from: geometry and colour always,
    then grey, posterised, solarised or inverted now and then."""
    images = crop_flip_turn(images, generator, area=(0.6, 1.0), degrees=20, shear=0.2)
    images = _sometimes(images, color_jitter(images, generator, 0.5), generator, 0.8)
    images = _sometimes(images, _gray(images), generator, 0.2)
    images = _sometimes(images, (images * 7).round() / 7, generator, 0.2)
    images = _sometimes(images, torch.where(images > 0.5, 1 - images, images), generator, 0.1)
    return _sometimes(images, 1 - images, generator, 0.05)


def simclr_view(images: Tensor, generator: torch.Generator) -> Tensor:
    """RoCLIP's: crop, mirror, colour jitter at 0.5 in four of five, grey in one of five, and a blur in one of two."""
    images = crop_flip_turn(images, generator, area=(0.5, 1.0))
    images = _sometimes(images, color_jitter(images, generator, 0.5), generator, 0.8)
    images = _sometimes(images, _gray(images), generator, 0.2)
    return _sometimes(images, _blur(images, generator), generator, 0.5)


def _blur(images: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian with one σ per batch of up to a hundredth of the side, as a kernel of 21 does on 224 pixels."""
    sigma = float(torch.rand((), generator=generator, device=images.device)) * images.shape[-1] * 0.01 + 0.1
    reach = max(1, math.ceil(3 * sigma))
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype) / sigma) ** 2)
    taps = (taps / taps.sum()).expand(3, 1, -1)
    padded = F.pad(images, (reach, reach, reach, reach), mode="reflect")
    return F.conv2d(F.conv2d(padded, taps[:, :, None, :], groups=3), taps[:, :, :, None], groups=3).clamp(0, 1)


def noise_and_erase(images: Tensor, generator: torch.Generator) -> Tensor:
    """PAR's: Gaussian noise of σ = 0.2 in one of two, and a square of 0.5-1 % of the area blackened in one of two."""
    noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
    images = _sometimes(images, (images + 0.2 * noise).clamp(0, 1), generator, 0.5)
    return _sometimes(images, _erase(images, generator), generator, 0.5)


def _erase(images: Tensor, generator: torch.Generator) -> Tensor:
    height, width = images.shape[-2:]
    side = _uniform(images, generator, 0.005, 0.01).mul(height * width).sqrt()
    top, left = _uniform(images, generator, 0, 1) * (height - side), _uniform(images, generator, 0, 1) * (width - side)
    rows = torch.arange(height, device=images.device).view(1, 1, -1, 1)
    columns = torch.arange(width, device=images.device).view(1, 1, 1, -1)
    inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
    return images.masked_fill(inside, 0.0)


def vary_caption(caption: str, chance: random.Random, share: float = 0.1) -> str:
    """A caption with a tenth of its words, one at least, deleted, swapped, or repeated elsewhere.

    Three of EDA's four operations (Wei and Zou 2019, arXiv 1901.11196): inserted words are the caption's own instead of
    synonyms, which would need a dictionary. A single word stays as it is.
    """
    words = caption.split()
    count = max(1, round(share * len(words)))
    kind = chance.choice(("delete", "swap", "insert"))
    for _ in range(count):
        if len(words) < 2:
            break
        if kind == "delete":
            words.pop(chance.randrange(len(words)))
        elif kind == "swap":
            a, b = chance.sample(range(len(words)), 2)
            words[a], words[b] = words[b], words[a]
        else:
            words.insert(chance.randrange(len(words) + 1), chance.choice(words))
    return " ".join(words)


def vary_captions(captions: list[str], seed: int) -> list[str]:
    """Every caption varied by the draws of one seed."""
    chance = random.Random(seed)
    return [vary_caption(caption, chance) for caption in captions]
