"""CA against ASR after the cure, one SVG per attack: top left is where a defence wants to be."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from unbackdoor.bench.tables import COLUMNS, per_attack
from unbackdoor.printable import terminal

_W, _H, _LEFT, _TOP, _SIDE = 620, 380, 56, 34, 290
_COLOURS = (
    *("#0b6e4f", "#c1121f", "#1d4e89", "#e09f3e", "#6a4c93", "#444444", "#00a6a6"),
    *("#d81159", "#8f9779", "#7f4f24", "#3a86ff", "#ff7b00", "#9d4edd"),
)
_SHAPES = ("circle", "square", "diamond", "triangle")


def scatters(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """SVG text by attack: a point per data set and defence, with bars of one standard deviation over seeds."""
    place = {c.name: i for i, c in enumerate(COLUMNS)}
    by_attack: dict[str, list[tuple[str, str, Any, Any]]] = {}
    for block in per_attack(rows):
        for line in block:
            _, data, attack, defence = line.labels
            ca, asr = line.cells[place["CA"]], line.cells[place["ASR"]]
            if ca.mean is not None and asr.mean is not None:
                by_attack.setdefault(attack, []).append((data, defence, ca, asr))
    defences = list(dict.fromkeys(p[1] for points in by_attack.values() for p in points))
    sets = list(dict.fromkeys(p[0] for points in by_attack.values() for p in points))
    return {attack: _svg(attack, points, defences, sets) for attack, points in by_attack.items()}


def _svg(attack: str, points: list[tuple[str, str, Any, Any]], defences: list[str], sets: list[str]) -> str:
    def x(asr: float) -> float:
        return _LEFT + _SIDE * asr / 100

    def y(ca: float) -> float:
        return _TOP + _SIDE * (1 - ca / 100)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_W} {_H}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_W}" height="{_H}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-weight="bold">{_plain(attack)}: CA against ASR after the cure (%)</text>',
    ]
    for tick in range(0, 101, 25):
        out.append(f'<path d="M{_LEFT} {y(tick):.1f}h{_SIDE}M{x(tick):.1f} {_TOP}v{_SIDE}" stroke="#ddd" fill="none"/>')
        out.append(f'<text x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick}</text>')
        out.append(f'<text x="{x(tick):.1f}" y="{_TOP + _SIDE + 16}" text-anchor="middle">{tick}</text>')
    out.append(f'<text x="{_LEFT + _SIDE / 2}" y="{_TOP + _SIDE + 34}" text-anchor="middle">ASR</text>')
    out.append(f'<text x="14" y="{_TOP + _SIDE / 2}" transform="rotate(-90 14 {_TOP + _SIDE / 2})">CA</text>')
    for data, defence, ca, asr in points:
        colour = _COLOURS[defences.index(defence) % len(_COLOURS)]
        cx, cy = x(asr.mean), y(ca.mean)
        for cell, bar in ((asr, "h"), (ca, "v")):
            if cell.deviation:
                half = _SIDE * cell.deviation / 100
                start = (cx - half, cy) if bar == "h" else (cx, cy - half)
                out.append(f'<path d="M{start[0]:.1f} {start[1]:.1f}{bar}{2 * half:.1f}" stroke="{colour}"/>')
        out.append(_mark(_SHAPES[sets.index(data) % len(_SHAPES)], cx, cy, colour, f"{data}, {defence}"))
    left = _LEFT + _SIDE + 24
    for i, defence in enumerate(defences):
        top = _TOP + 8 + 18 * i
        out.append(_mark("circle", left, top, _COLOURS[i % len(_COLOURS)], defence))
        out.append(f'<text x="{left + 12}" y="{top + 4}">{_plain(defence)}</text>')
    for i, data in enumerate(sets):
        top = _TOP + 20 + 18 * (len(defences) + i)
        out.append(_mark(_SHAPES[i % len(_SHAPES)], left, top, "#888", data))
        out.append(f'<text x="{left + 12}" y="{top + 4}">{_plain(data)}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def _plain(text: str) -> str:
    return escape(terminal(text))


def _mark(shape: str, x: float, y: float, colour: str, title: str) -> str:
    paths = {
        "circle": f"M{x - 5:.1f} {y:.1f}a5 5 0 1 0 10 0a5 5 0 1 0 -10 0",
        "square": f"M{x - 4.5:.1f} {y - 4.5:.1f}h9v9h-9z",
        "diamond": f"M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z",
        "triangle": f"M{x:.1f} {y - 6:.1f}l6 10h-12z",
    }
    return f'<path d="{paths[shape]}" fill="{colour}" fill-opacity="0.8"><title>{_plain(title)}</title></path>'
