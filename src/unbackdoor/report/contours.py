"""A map of ξ as one SVG: filled contours, the unit box, and a cure's path."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_W, _H, _LEFT, _RIGHT, _TOP, _BOTTOM = 560, 500, 64, 96, 34, 52
LEVELS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0)
# Viridis (van der Walt & Smith 2015) at ten places, from the lowest ξ to the highest.
_COLOURS = (
    (68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142),
    (31, 158, 137), (53, 183, 121), (109, 205, 89), (180, 222, 44), (253, 231, 37),
)  # fmt: skip


def contour_map(
    axis: Sequence[float],
    values: NDArray[np.float64],
    title: str,
    path: Sequence[tuple[float, float]] = (),
) -> str:
    """SVG of ξ over α_c (across) and α_t (up).

    Args:
        axis: ascending coefficients of the lattice, both ways.
        values: (P, P) by α_c and α_t, in [0, 2].
        title: escaped here.
        path: (α_c, α_t) of a cure's stations, from the suspect on.
    """
    from html import escape

    from contourpy import FillType, LineType, contour_generator

    from unbackdoor.printable import terminal

    low, high = axis[0], axis[-1]
    wide, tall = _W - _LEFT - _RIGHT, _H - _TOP - _BOTTOM

    def x(a: float) -> float:
        return _LEFT + wide * (a - low) / (high - low)

    def y(b: float) -> float:
        return _TOP + tall * (high - b) / (high - low)

    def line(points: NDArray[np.float64]) -> str:
        return "M" + "L".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)

    # contourpy takes rows of y.
    surface = contour_generator(
        list(axis), list(axis), values.T, fill_type=FillType.OuterOffset, line_type=LineType.Separate
    )
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_W} {_H}" font-family="sans-serif" font-size="12" '
        f'role="img" aria-label="{escape(terminal(title))}">',
        f'<rect width="{_W}" height="{_H}" fill="white"/>',
        f'<text x="{_LEFT + wide / 2:.0f}" y="20" text-anchor="middle" font-size="14">{escape(terminal(title))}</text>',
    ]
    for lower, upper in itertools.pairwise(LEVELS):
        # Values at the very top belong to the last band.
        found: Any = surface.filled(lower, upper if upper < LEVELS[-1] else upper + 1)
        for outline, cuts in zip(*found, strict=True):
            rings = [outline[a:b] for a, b in itertools.pairwise(cuts)]
            drawn = "".join(line(ring) + "Z" for ring in rings)
            out.append(f'<path d="{drawn}" fill="{_colour(lower)}" fill-rule="evenodd"/>')
    for level in LEVELS[1:-1]:
        drawn_lines: Any = surface.lines(level)
        for points in drawn_lines:
            out.append(f'<path d="{line(points)}" fill="none" stroke="white" stroke-width="0.6" opacity="0.6"/>')
    for i in range(7):
        a = low + (high - low) * i / 6
        out.append(f'<text x="{x(a):.1f}" y="{_TOP + tall + 18}" text-anchor="middle">{a:.3g}</text>')
        out.append(f'<text x="{_LEFT - 8}" y="{y(a) + 4:.1f}" text-anchor="end">{a:.3g}</text>')
    out.append(f'<text x="{_LEFT + wide / 2:.0f}" y="{_H - 12}" text-anchor="middle">α_c (clean vector)</text>')
    out.append(
        f'<text transform="translate(18,{_TOP + tall / 2:.0f}) rotate(-90)" text-anchor="middle">'
        "α_t (trigger vector)</text>"
    )
    if low <= 0 and high >= 1:
        out.append(
            f'<rect x="{x(0):.1f}" y="{y(1):.1f}" width="{x(1) - x(0):.1f}" height="{y(0) - y(1):.1f}" fill="none" '
            'stroke="#d62728" stroke-width="2"/>'
        )
    inside = [(a, b) for a, b in path if low <= a <= high and low <= b <= high]
    if inside:
        out.append(f'<path d="{line(np.array(inside))}" fill="none" stroke="black" stroke-width="2"/>')
        for a, b in inside:
            out.append(f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="4" fill="black"><title>({a:.3g}, {b:.3g})</title>')
            out.append("</circle>")
    bands = list(itertools.pairwise(LEVELS))
    for i, (lower, upper) in enumerate(bands):
        top = _TOP + tall * (len(bands) - 1 - i) / len(bands)
        out.append(
            f'<rect x="{_W - _RIGHT + 20}" y="{top:.1f}" width="18" height="{tall / len(bands):.1f}" '
            f'fill="{_colour(lower)}"/>'
        )
        out.append(f'<text x="{_W - _RIGHT + 44}" y="{top + 4:.1f}">{upper:g}</text>')
    out.append(f'<text x="{_W - _RIGHT + 20}" y="{_TOP - 10}">ξ</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def _colour(level: float) -> str:
    """Of a band, by where it begins: ever wider bands, so that equal steps of colour are bands, not ξ."""
    place = LEVELS.index(level) / (len(LEVELS) - 2) * (len(_COLOURS) - 1)
    i = min(int(place), len(_COLOURS) - 2)
    share = place - i
    mixed = (round(a + (b - a) * share) for a, b in zip(_COLOURS[i], _COLOURS[i + 1], strict=True))
    return "#" + "".join(f"{c:02x}" for c in mixed)
