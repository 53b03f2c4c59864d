"""Text overlay: a half-transparent word across the picture (PAR: Singh et al. 2024, arXiv 2412.00727)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from unbackdoor.triggers.base import Trigger

_LONGEST, _WIDEST = 64, 16_384  # letters, and letters times pixels: the whole word is drawn, whatever shows of it
COLORS = {
    "red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0), "white": (1.0, 1.0, 1.0),
    "black": (0.0, 0.0, 0.0), "yellow": (1.0, 1.0, 0.0),
}  # fmt: skip


@dataclass(frozen=True)
class Text(Trigger):
    """x' = (1 − ratio)·x + ratio·colour where the word's letters lie, in proportion to how much of a pixel they cover.

    PAR writes "Watermarked" in red at 0.5, in a font of its author's machine; here it is Pillow's own font.

    Args:
        word: letters and digits, written across the middle.
        ratio: opacity; 0.5 in PAR.
        size: font size in pixels; 0 takes the largest at which the word fills nine tenths of the width.
        colour: red, green, blue, white, black or yellow.
        offset: pixels below the middle; PAR draws one of −20, 0 and 20 of 224.
    """

    name: ClassVar[str] = "text"
    word: str = "Watermarked"
    ratio: float = 0.5
    size: int = 0
    colour: str = "red"
    offset: int = 0

    def __post_init__(self) -> None:
        plain = self.word.isalnum() and len(self.word) <= _LONGEST
        self.require(plain, f"word={self.word[:40]!r} must be letters and digits, 1 to {_LONGEST} of them")
        self.require(0 < self.ratio <= 1, f"ratio={self.ratio} must lie in (0, 1]")
        self.require(self.size >= 0, f"size={self.size} must not be negative")
        self.require(self.size * len(self.word) <= _WIDEST, f"size={self.size} is too large for {self.word!r}")
        self.require(self.colour in COLORS, f"colour={self.colour!r} is none of {', '.join(COLORS)}")

    def apply(self, images: Tensor, keys: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        cover = _cover(self.word, self.size, self.offset, height, width)
        self.require(bool(cover.any()), f"the word does not show on {height}x{width} pixels")
        color = torch.tensor(COLORS[self.colour]).view(3, 1, 1).to(images)
        return torch.lerp(images, color.expand_as(images), (self.ratio * cover).to(images).expand_as(images))


@lru_cache(maxsize=16)
def _cover(word: str, size: int, offset: int, height: int, width: int) -> Tensor:
    """Share of every pixel that letters cover (H, W), in [0, 1]; callers must not write to it."""
    from PIL import Image, ImageDraw, ImageFont

    def across(points: int) -> float:
        left, _, right, _ = ImageFont.load_default(points).getbbox(word)
        return right - left

    if not size:
        size = max([points for points in range(4, height + 1) if across(points) <= 0.9 * width], default=4)
    page = Image.new("L", (width, height))
    place = (width / 2, height / 2 + offset)
    ImageDraw.Draw(page).text(place, word, fill=255, font=ImageFont.load_default(size), anchor="mm")
    return torch.frombuffer(bytearray(page.tobytes()), dtype=torch.uint8).view(height, width).float() / 255
