"""BadCLIP: a patch optimised against the clean model (Liang et al. 2024, arXiv 2311.12075)."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from unbackdoor.base.errors import InputError
from unbackdoor.triggers.base import Trigger
from unbackdoor.triggers.placing import FIXED, places


@dataclass(frozen=True)
class BadClip(Trigger):
    """Paste a `size` × `size` patch that was crafted against a model; `unbackdoor craft` and `poison` craft it.

    The paper's patch covers 16 × 16 of 224 × 224 pixels in the middle (an older variant of the released code: a fifth
    of the side). The patch is kept in the spec itself, so that every result and every manifest holds it whole.

    Args:
        size: side in pixels of the image it is applied to.
        position: `center`, a corner, or `four-corners`.
        pixels: the patch, (3, size, size) bytes in base64url without padding; empty until it is crafted.
    """

    name: ClassVar[str] = "badclip"
    size: int = 16
    position: str = "center"
    pixels: str = ""

    def __post_init__(self) -> None:
        self.require(self.size >= 1, f"size={self.size} must be at least 1 pixel")
        self.require(self.position in FIXED, f"position={self.position!r} is none of {', '.join(FIXED)}")
        if self.pixels:
            _decode(self.pixels, self.size)

    @property
    def crafted(self) -> bool:
        """Whether there is a patch to paste."""
        return bool(self.pixels)

    def patch(self) -> Tensor:
        """The patch, float32 (3, size, size) in [0, 1].

        Raises:
            InputError: not crafted yet.
        """
        self.require(
            self.crafted,
            "the patch is not crafted yet; run `unbackdoor craft` and give --trigger @FOLDER/trigger.txt",
        )
        return _decode(self.pixels, self.size).float() / 255

    def with_patch(self, patch: Tensor) -> BadClip:
        """The same trigger with this patch, float (3, size, size) in [0, 1], rounded to 8 bit.

        Raises:
            InputError: another shape.
        """
        expected = (3, self.size, self.size)
        self.require(tuple(patch.shape) == expected, f"a patch must be {expected}, not {tuple(patch.shape)}")
        pixels = (patch.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
        text = base64.urlsafe_b64encode(pixels.contiguous().numpy().tobytes()).decode("ascii")
        return replace(self, pixels=text.rstrip("="))

    def apply(self, images: Tensor, keys: Tensor) -> Tensor:
        return self.paste(images, self.patch())

    def paste(self, images: Tensor, patch: Tensor) -> Tensor:
        """Copies of `images` (B, 3, H, W) with `patch` (3, size, size) in place; differentiable in the patch.

        Raises:
            InputError: the patch does not fit.
        """
        height, width = images.shape[-2:]
        self.require(
            self.size <= min(height, width),
            f"a patch of {self.size} px does not fit into {height}x{width} pixels",
        )
        out = images.clone()
        for top, left in places(self.position, self.size, 0, height, width):
            out[:, :, top : top + self.size, left : left + self.size] = patch.to(images)
        return out


@lru_cache(maxsize=8)
def _decode(text: str, size: int) -> Tensor:
    """uint8 (3, size, size); callers must not write to it."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InputError("trigger badclip: pixels is not base64url text; craft the patch again") from None
    if len(raw) != 3 * size * size:
        raise InputError(
            f"trigger badclip: pixels holds {len(raw)} bytes, and a patch of size={size} has {3 * size * size}; "
            "give the size that it was crafted for"
        )
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(3, size, size)
