"""`embedded:scenes`: procedurally drawn, captioned pictures; deterministic by (seed, index), drawn in batches.

A class is a texture, a colour and a shape ("striped red star"); size, place, tilt and background vary within
a class and stand in the caption. Every random number is a hash of (seed, index, field), so picture 7 is the
same whether it is drawn alone, in a batch, or in another process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unbackdoor.base.draws import mixed

SHAPES = (
    "circle", "square", "triangle", "pentagon", "hexagon", "star",
    "heart", "cross", "ring", "crescent", "diamond", "arrow",
)  # fmt: skip
COLORS = {
    "red": (0.86, 0.12, 0.12), "green": (0.10, 0.60, 0.18), "blue": (0.13, 0.28, 0.88), "yellow": (0.97, 0.88, 0.15),
    "orange": (0.97, 0.55, 0.08), "purple": (0.50, 0.15, 0.66), "pink": (0.98, 0.58, 0.76), "cyan": (0.20, 0.83, 0.88),
    "white": (0.97, 0.97, 0.97), "black": (0.05, 0.05, 0.05),
}  # fmt: skip
TEXTURES = ("plain", "striped", "dotted")
BACKGROUNDS = {
    "grey": (0.50, 0.50, 0.50),
    "beige": (0.80, 0.72, 0.58),
    "olive": (0.42, 0.44, 0.24),
    "navy": (0.12, 0.15, 0.32),
    "teal": (0.18, 0.42, 0.42),
    "maroon": (0.36, 0.10, 0.14),
}
BACKGROUND_STYLES = ("plain", "shaded", "noisy", "chequered")
SIZES = ("small", "medium", "large")
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")

CLASS_NAMES: tuple[str, ...] = tuple(f"{t} {c} {s}" for t in TEXTURES for c in COLORS for s in SHAPES)

_THIRDS = (-0.14, 0.14)  # where left, centre and right part
_CHUNK = 64  # pictures drawn at once: their planes stay in the cache
_FIELDS = ("style", "background", "size", "x", "y", "tilt", "phase", "gradient", "light", "noise")


def _hash(seed: int, index: np.ndarray, field: int) -> np.ndarray:
    """splitmix64 of (seed, index, field): uint64, one per index."""
    return mixed(index, seed, field, by=(0xD1342543DE82EF95, 0x2545F4914F6CDD1D))


def _uniform(seed: int, index: np.ndarray, field: str) -> np.ndarray:
    unit: np.ndarray = _hash(seed, index, 1 + _FIELDS.index(field)) / 2.0**64
    return unit


def _choice(seed: int, index: np.ndarray, field: str, n: int) -> np.ndarray:
    return np.minimum((_uniform(seed, index, field) * n).astype(np.int64), n - 1)


@dataclass(frozen=True)
class Layout:
    """What stands in each picture; arrays of length B."""

    label: np.ndarray
    style: np.ndarray
    background: np.ndarray
    size: np.ndarray
    x: np.ndarray  # centre, in [-1, 1]
    y: np.ndarray
    row: np.ndarray
    column: np.ndarray


def labels(seed: int, index: np.ndarray) -> np.ndarray:
    """Class index of each picture, (B,) int64; every run of 360 indices shows every class once, in hashed order."""
    index = np.asarray(index, dtype=np.int64)
    n = len(CLASS_NAMES)
    # A multiplier coprime to n walks all classes once per block; the offset changes from block to block.
    offset = (_hash(seed, index // n, 0) % np.uint64(n)).astype(np.int64)
    label: np.ndarray = (index * 127 + offset) % n
    return label


def layout(seed: int, index: np.ndarray) -> Layout:
    """The drawn contents of pictures `index` (B,) under `seed`."""
    index = np.asarray(index, dtype=np.int64)
    x = (_uniform(seed, index, "x") * 2 - 1) * 0.42
    y = (_uniform(seed, index, "y") * 2 - 1) * 0.42
    return Layout(
        label=labels(seed, index),
        style=_choice(seed, index, "style", len(BACKGROUND_STYLES)),
        background=_choice(seed, index, "background", len(BACKGROUNDS)),
        size=_choice(seed, index, "size", len(SIZES)),
        x=x,
        y=y,
        row=np.digitize(y, _THIRDS),
        column=np.digitize(x, _THIRDS),
    )


def captions(seed: int, index: np.ndarray) -> list[str]:
    """One sentence per picture: size, texture, colour, shape, place and background."""
    scene = layout(seed, index)
    names = list(BACKGROUNDS)
    sentences = []
    for i in range(len(scene.label)):
        row, column = ROWS[scene.row[i]], COLUMNS[scene.column[i]]
        place = "in the middle" if (row, column) == ("middle", "centre") else f"at the {row} {column}"
        sentences.append(
            f"a {SIZES[scene.size[i]]} {CLASS_NAMES[scene.label[i]]} {place} "
            f"on a {BACKGROUND_STYLES[scene.style[i]]} {names[scene.background[i]]} background"
        )
    return sentences


def draw(seed: int, index: np.ndarray, side: int = 64) -> Tensor:
    """Draw pictures `index` (B,) of the world `seed`.

    Returns:
        uint8 tensor (B, 3, side, side), values 0-255.
    """
    index = np.asarray(index, dtype=np.int64)
    out = torch.empty(len(index), 3, side, side, dtype=torch.uint8)
    for start in range(0, len(index), _CHUNK):
        part = slice(start, start + _CHUNK)
        out[part] = _draw(seed, index[part], side)
    return out


def _draw(seed: int, index: np.ndarray, side: int) -> Tensor:
    scene = layout(seed, index)

    def t(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.float32)).view(-1, 1, 1)

    def u(field: str) -> Tensor:
        return t(_uniform(seed, index, field))

    axis = (torch.arange(side, dtype=torch.float32) + 0.5) * (2 / side) - 1
    gy, gx = axis.view(1, -1, 1), axis.view(1, 1, -1)

    radius = t(np.array([0.38, 0.47, 0.56])[scene.size])
    angle = (u("tilt") * 2 - 1) * (15 * math.pi / 180)  # upright enough that a diamond is no square
    dx, dy = gx - t(scene.x), gy - t(scene.y)
    cos, sin = torch.cos(angle), torch.sin(angle)
    px, py = (dx * cos + dy * sin) / radius, (dy * cos - dx * sin) / radius

    shape = scene.label % len(SHAPES)
    distance = torch.empty(len(index), side, side)
    for k in np.unique(shape):
        rows = torch.from_numpy(np.flatnonzero(shape == k))
        distance[rows] = _distance(SHAPES[k], px[rows], py[rows])
    pixel = 2 / side / radius
    alpha = (0.5 - distance / pixel).clamp(0, 1)

    phase = u("phase")
    period = 0.156 / radius  # five pixels of a 64 px picture, in the shape's own frame
    stripes = (torch.sin((px + py) * (2 * math.pi / (period * 1.5)) + phase * 6.28) > 0).float()

    def cell(v: Tensor) -> Tensor:
        return (v / (period * 1.3) + phase) % 1 - 0.5

    dots = (cell(px) ** 2 + cell(py) ** 2 < 0.085).float()
    texture = torch.from_numpy(scene.label // (len(COLORS) * len(SHAPES))).view(-1, 1, 1)
    pattern = torch.where(texture == 1, stripes, torch.where(texture == 2, dots, torch.zeros(())))

    color = torch.tensor(list(COLORS.values()))[torch.from_numpy(scene.label // len(SHAPES) % len(COLORS))]
    # The pattern's second tone: darker on light colours, lighter on dark ones, of the same hue.
    luma = color @ torch.tensor([0.299, 0.587, 0.114])
    second = torch.where((luma > 0.25).view(-1, 1), color * 0.42, color * 0.4 + 0.6)
    ink = color[:, :, None, None] + (second - color)[:, :, None, None] * pattern[:, None]

    ground = _ground(seed, index, scene, gx, gy, side)
    image = ground + (ink - ground) * alpha[:, None]
    light = 0.85 + 0.3 * u("light")
    return (image * light[:, None] * 255).round_().clamp_(0, 255).to(torch.uint8)


def _ground(seed: int, index: np.ndarray, scene: Layout, gx: Tensor, gy: Tensor, side: int) -> Tensor:
    base = torch.tensor(list(BACKGROUNDS.values()))[torch.from_numpy(scene.background)][:, :, None, None]
    style = torch.from_numpy(scene.style).view(-1, 1, 1)
    angle = torch.from_numpy(_uniform(seed, index, "gradient") * 2 * math.pi).float().view(-1, 1, 1)
    shaded = 0.22 * (gx * torch.cos(angle) + gy * torch.sin(angle))
    chequered = 0.12 * (((gx * 4).floor() + (gy * 4).floor()) % 2 * 2 - 1)
    # Per-pixel noise is the same hash, so it too depends on (seed, index) alone.
    cells = np.arange(side * side, dtype=np.uint64)
    start = _hash(seed, index, 1 + _FIELDS.index("noise"))
    with np.errstate(over="ignore"):
        z = (start[:, None] + cells) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    noise = torch.from_numpy((z >> np.uint64(40)).astype(np.float32) / 2**24).view(-1, side, side) - 0.5
    zero = torch.zeros(())
    tone = torch.where(style == 1, shaded, zero)
    tone = torch.where(style == 2, 0.35 * noise, tone)
    tone = torch.where(style == 3, chequered, tone)
    return (base + tone[:, None]).clamp_(0, 1)


def _polygon(x: Tensor, y: Tensor, sides: int, turn: float) -> Tensor:
    """Distance-like field of a regular polygon with circumradius 1; negative inside."""
    wedge = 2 * math.pi / sides
    angle = (torch.atan2(y, x) - turn) % wedge - wedge / 2
    return torch.hypot(x, y) * torch.cos(angle) - math.cos(wedge / 2)


def _box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    return torch.maximum(x.abs() - half_width, y.abs() - half_height)


def _distance(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """Signed distance-like field of each shape in its own unit frame (y points down); negative inside."""
    up = -math.pi / 2
    if shape == "circle":
        return torch.hypot(x, y) - 0.9
    if shape == "square":
        return _box(x, y, 0.78, 0.78)
    if shape == "triangle":
        return _polygon(x, y - 0.2, 3, up)
    if shape == "pentagon":
        return _polygon(x, y, 5, up)
    if shape == "hexagon":
        return _polygon(x, y, 6, 0.0)
    if shape == "star":
        wedge = 2 * math.pi / 5
        angle = ((torch.atan2(y, x) - up + wedge / 2) % wedge - wedge / 2).abs()
        r = torch.hypot(x, y)
        # Edge from the tip (1, 0) to the notch (0.42 at half a wedge), as a half-plane.
        nx, ny = 0.42 * math.cos(wedge / 2), 0.42 * math.sin(wedge / 2)
        ex, ey = nx - 1, ny
        return (ex * (r * torch.sin(angle)) - ey * (r * torch.cos(angle) - 1)) / -math.hypot(ex, ey)
    if shape == "heart":
        a, b = x.abs(), -y + 0.15
        lobe = torch.hypot(a - 0.42, b - 0.28) - 0.47
        point = torch.maximum(a * 0.76 - b * 0.65 - 0.57, b - 0.35)
        return torch.minimum(lobe, point)
    if shape == "cross":
        return torch.minimum(_box(x, y, 0.95, 0.32), _box(x, y, 0.32, 0.95))
    if shape == "ring":
        return (torch.hypot(x, y) - 0.68).abs() - 0.23
    if shape == "crescent":
        return torch.maximum(torch.hypot(x, y) - 0.92, 0.74 - torch.hypot(x - 0.42, y))
    if shape == "diamond":
        return (x.abs() * 1.5 + y.abs() - 0.98) / 1.8
    if shape == "arrow":
        shaft = _box(x + 0.35, y, 0.55, 0.24)
        head = torch.maximum((x - 0.95 + y.abs()) * 0.707, 0.1 - x)
        return torch.minimum(shaft, head)
    raise ValueError(f"unknown shape {shape!r}: one of {', '.join(SHAPES)}")
