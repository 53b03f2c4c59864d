"""Where a patch goes."""

from __future__ import annotations

CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")
FIXED = (*CORNERS, "center", "four-corners")


def places(position: str, size: int, margin: int, height: int, width: int) -> list[tuple[int, int]]:
    """(top, left) of every copy of a `size` × `size` patch on a `height` × `width` picture.

    Args:
        position: a corner, `center`, or `four-corners`.
        margin: pixels between a corner's patch and the border.
    """
    top, bottom = margin, height - size - margin
    left, right = margin, width - size - margin
    corners = dict(zip(CORNERS, ((top, left), (top, right), (bottom, left), (bottom, right)), strict=True))
    if position == "four-corners":
        return list(corners.values())
    if position == "center":
        return [((height - size) // 2, (width - size) // 2)]
    return [corners[position]]
