"""Pictures as `data:` addresses, small enough for a page to hold a dozen."""

from __future__ import annotations

import base64
import io

from PIL import Image
from torch import Tensor

EXACT = 96  # pixels of a side up to which a picture is kept as it is
_MARGIN, _LEAST = 0.25, 12  # around what a trigger changes, as a share of its side; pixels of a side that are shown
LARGEST = 256  # pixels of a side that a page holds at most
_BYTES, _QUALITIES = 16_000, (90, 75, 50, 20, 0)
TIMES = 5  # what a difference is multiplied by


def address(image: Tensor) -> str:
    """`data:` address of a uint8 picture (3, H, W).

    Up to 96 pixels a side as PNG, exactly; above that as WebP, at most 256 pixels a side, in the best quality that
    takes no more than 16 kB: of photographs PNG takes 100 kB each, and a page has up to twenty.
    """
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    if max(picture.size) <= EXACT:
        return _encoded(_written(picture, "png"), "png")
    picture.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX)
    for quality in _QUALITIES:
        form = _written(picture, "webp", quality=quality)
        if len(form) <= _BYTES:
            break
    return _encoded(form, "webp")


def _written(picture: Image.Image, kind: str, **settings: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **settings)
    return buffer.getvalue()


def _encoded(raw: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"


def difference(clean: Tensor, triggered: Tensor) -> Tensor:
    """What a trigger changes, times five: uint8 (3, H, W) of two such pictures; black is no change, 51 or more is full.

    Args:
        clean, triggered: uint8 (3, H, W).
    """
    return ((triggered.int() - clean.int()).abs() * TIMES).clamp(0, 255).byte()


def changed(clean: Tensor, triggered: Tensor) -> tuple[slice, slice]:
    """The square of rows and columns that a trigger changes, with a margin around it; the whole where that is large.

    Args:
        clean, triggered: uint8 (3, H, W).
    """
    height, width = clean.shape[-2:]
    strength = (triggered.int() - clean.int()).abs().amax(dim=0)
    # A quarter of the strongest change: what a trigger leaves in its surroundings by rounding is no part of it.
    rows, columns = (strength * 4 > strength.max()).nonzero(as_tuple=True)
    if not len(rows):
        return slice(0, height), slice(0, width)
    ends = [(int(each.min()), int(each.max()) + 1) for each in (rows, columns)]
    side = max(_LEAST, round((1 + _MARGIN) * max(high - low for low, high in ends)))

    def around(low: int, high: int, size: int) -> slice:
        first = max(0, min((low + high - side) // 2, size - side))
        return slice(first, min(size, first + side))

    return around(*ends[0], height), around(*ends[1], width)


def enlarged(clean: Tensor, triggered: Tensor) -> tuple[str, str]:
    """Addresses of what a trigger changes and nothing else: as it looks, and its difference times five."""
    rows, columns = changed(clean, triggered)
    parts = (triggered, difference(clean, triggered))
    return address(parts[0][:, rows, columns]), address(parts[1][:, rows, columns])
