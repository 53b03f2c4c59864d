"""Hiding a few letters in a picture, and reading them back: the networks behind the `issba` trigger.

After StegaStamp (Tancik et al. 2020, arXiv 1904.05343), which ISSBA (Li et al. 2021, arXiv 2012.03816) uses, but
smaller: two convolutional networks of our own for 64 px, where every bit has a place of its own on an 8 × 8 grid. There
is no code that corrects errors, no printing and photographing in the noise, and no critic. `recipes/issba/train.py`
trains both, src/unbackdoor/assets/issba tells how well they work.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 64  # px at which both networks work
GRID = 8  # letters, and bits in a letter
LARGEST = 0.2  # of a residual, in [0, 1] units
ASSETS = Path(__file__).parent.parent / "assets" / "issba"


class Encoder(nn.Module):
    """Pictures (B, 3, 64, 64) in [0, 1] and bits (B, 8, 8) of ±1 → residuals (B, 3, 64, 64) in ±0.2.

    A small U without normalisation layers, so that a picture's residual depends on that picture alone.
    """

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, width, 3, stride=2, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.deep = nn.ModuleList(nn.Conv2d(2 * width, 2 * width, 3, padding=1) for _ in range(2))
        self.up = nn.Conv2d(3 * width, width, 3, padding=1)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, 12, 3, padding=1)

    def forward(self, images: Tensor, bits: Tensor) -> Tensor:
        page = F.interpolate(bits[:, None], size=images.shape[-2:])
        fine = F.leaky_relu(self.stem(torch.cat([images * 4 - 2, page], dim=1)), 0.1)
        x = F.leaky_relu(self.down(fine), 0.1)
        for layer in self.deep:
            x = x + F.leaky_relu(layer(x), 0.1)
        x = F.leaky_relu(self.up(torch.cat([F.interpolate(x, scale_factor=2.0), fine], dim=1)), 0.1)
        x = x + F.leaky_relu(self.mix(x), 0.1)
        return LARGEST * torch.tanh(F.pixel_shuffle(self.out(x), 2))


class Decoder(nn.Module):
    """Pictures (B, 3, 64, 64) in [0, 1] → logits (B, 8, 8) of the bits."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, 32, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(32, 48, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(48, 48, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(48, 1, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.body(images * 4 - 2)[:, 0]
        return logits


def to_bits(secret: str) -> Tensor:
    """Letters (at most 8, ASCII; filled up with spaces) as float (8, 8) of ±1: a row per letter, highest bit first."""
    codes = torch.tensor(list(secret.ljust(GRID).encode("ascii")))
    return (codes[:, None] >> torch.arange(GRID - 1, -1, -1) & 1).float() * 2 - 1


def residual(images: Tensor, bits: Tensor) -> Tensor:
    """What hides `bits` (8, 8) in `images` (B, 3, H, W): made at 64 px and resized, float32 on the images' device."""
    network = _encoder(images.device)
    small = _at_side(images.float())
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        change: Tensor = network(small, bits.to(images.device).expand(len(images), GRID, GRID))
    return F.interpolate(change, size=images.shape[-2:], mode="bilinear", antialias=True, align_corners=False)


def read_bits(images: Tensor) -> Tensor:
    """Logits (B, 8, 8) of the bits hidden in `images` (B, 3, H, W) in [0, 1]; positive means 1."""
    with torch.no_grad():
        bits: Tensor = _decoder(images.device)(_at_side(images.float()))
    return bits


def _at_side(images: Tensor) -> Tensor:
    if images.shape[-2:] == (SIDE, SIDE):
        return images
    return F.interpolate(images, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)


@lru_cache(maxsize=2)
def _encoder(device: torch.device) -> nn.Module:
    return _load(Encoder(), "encoder", device)


@lru_cache(maxsize=2)
def _decoder(device: torch.device) -> nn.Module:
    return _load(Decoder(), "decoder", device)


def _load(network: nn.Module, name: str, device: torch.device) -> nn.Module:
    from unbackdoor.weights.files import read_tensors

    stored, _ = read_tensors(ASSETS / f"{name}.safetensors")
    network.load_state_dict({key: t.float() for key, t in stored.items()})
    return network.requires_grad_(False).to(device)
