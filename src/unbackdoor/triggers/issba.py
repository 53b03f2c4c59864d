"""ISSBA: an invisible pattern that differs from image to image (Li et al. 2021, arXiv 2012.03816)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unbackdoor.triggers.base import Trigger

SMALLEST = 16  # px; below, nothing of what the network wrote at 64 px is left


@dataclass(frozen=True)
class Issba(Trigger):
    """x' = x + strength·E(x, secret): a network hides letters in each picture.

    The paper takes StegaStamp's encoder (arXiv 1904.05343), which also reads 100 bits with a code that corrects
    errors; attacks on CLIP hide "Stega!!" (BadCLIP's code). The network here is our own and smaller: see
    `unbackdoor.triggers.steganography`, also for reading the letters back. It works at 64 px; for other sizes the
    picture is resized on its way in, and the residual on its way out, so that non-square pictures work too.

    Args:
        secret: one to eight printable ASCII characters other than space, comma and equals sign.
        strength: factor on the residual, in (0, 4].
    """

    name: ClassVar[str] = "issba"
    secret: str = "Stega!!"
    strength: float = 1.0

    def __post_init__(self) -> None:
        plain = all("!" <= c <= "~" and c not in ",=" for c in self.secret)
        self.require(
            1 <= len(self.secret) <= 8 and plain,
            f"secret={self.secret!r} must be 1 to 8 printable ASCII characters without space, comma and equals sign",
        )
        self.require(
            math.isfinite(self.strength) and 0 < self.strength <= 4, f"strength={self.strength} must lie in (0, 4]"
        )

    def apply(self, images: Tensor, keys: Tensor) -> Tensor:
        from unbackdoor.triggers.steganography import residual, to_bits

        height, width = images.shape[-2:]
        self.require(
            min(height, width) >= SMALLEST,
            f"what it hides does not fit into {height}x{width} pixels; it takes at least {SMALLEST}",
        )
        change = self.strength * residual(images, to_bits(self.secret))
        return (images.float() + change).clamp(0, 1).to(images.dtype)
