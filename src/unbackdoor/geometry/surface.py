"""What a model answers all over the plane of two vectors, and the weight disentanglement error ξ there.

Weights are walked in place, row by row and there and back, so that each point costs one fused multiply-add and a look
at the same decoded pictures. The two axes, which ξ refers to, are looked at whole; elsewhere a coarse lattice comes
first, and a cell is looked at more closely where ξ changes across it. What is left between is interpolated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unbackdoor.base.errors import InputError
from unbackdoor.base.progress import Progress
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.evaluation.answers import batch_size, predict
from unbackdoor.metrics.disentanglement import Disentanglement, disentanglement, mean_error
from unbackdoor.metrics.rates import Rate
from unbackdoor.triggers.base import Trigger
from unbackdoor.weights.plane import Plane

Point = tuple[float, float]  # α_c, α_t
COARSE = 4  # steps of the fine lattice to one of the coarse
BOX = 6  # points a side of the lattice over the unit box


@dataclass(frozen=True)
class Views:
    """Pictures in memory, clean and triggered.

    Args:
        clean: (N, 3, S, S) in [0, 1].
        triggered: (M, 3, S, S) in [0, 1], of the pictures whose class is not the target, where that is known.
        labels: (N,) classes of the clean ones, −1 where unknown.
        target: the attacker's class.
        rows: (M,) which of the clean ones the triggered ones were made of.
    """

    clean: Tensor
    triggered: Tensor
    labels: Tensor
    target: int
    rows: Tensor

    @staticmethod
    def of(images: ImageSet, trigger: Trigger, target: int, device: torch.device) -> Views:
        """Both views of all pictures of a set.

        Raises:
            InputError: every picture is of the target class.
        """
        every = torch.arange(len(images))
        clean = images.float_batch(every).to(device)
        rows = every[images.labels != target]
        if not len(rows):
            raise InputError(f"{images.spec}: no image outside the target class is left; give more images")
        some = rows.split(batch_size(clean.shape[-1], device))
        triggered = torch.cat([trigger(clean[part], keys=part) for part in some])
        return Views(clean, triggered, images.labels, target, rows)


@dataclass(frozen=True)
class Reading:
    """Answers at one point: classes (N,) of the clean pictures and (M,) of the triggered ones."""

    clean: Tensor
    triggered: Tensor


@dataclass
class Surface:
    """Answers at every point that was looked at.

    Args:
        low, high, points: the square lattice, both ways.
        views: what was shown.
        readings: answers by point.
    """

    low: float
    high: float
    points: int
    views: Views
    readings: dict[Point, Reading] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.points < 2 or not self.low < self.high:
            raise InputError(
                f"a lattice of {self.points} points from {self.low} to {self.high}: give two points or more, upwards"
            )

    @property
    def axis(self) -> list[float]:
        """The lattice's coefficients, ascending."""
        step = (self.high - self.low) / (self.points - 1)
        return [_tidy(self.low + i * step) for i in range(self.points)]

    def error(self, point: Point) -> Disentanglement:
        """ξ at a point that was looked at, as its two axes' points were."""
        clean, triggered = self._alone(point)
        here = self.readings[point]
        return disentanglement(clean, here.clean, triggered, here.triggered)

    def _alone(self, point: Point) -> tuple[Tensor, Tensor]:
        """Answers to clean pictures without the trigger vector, and to triggered ones without the clean vector."""
        return self.readings[point[0], 0.0].clean, self.readings[0.0, point[1]].triggered

    def accuracy(self, point: Point) -> Rate:
        """CA there."""
        known = self.views.labels >= 0
        return Rate(int((self.readings[point].clean == self.views.labels)[known].sum()), int(known.sum()))

    def success(self, point: Point) -> Rate:
        """ASR there."""
        answers = self.readings[point].triggered
        return Rate(int((answers == self.views.target).sum()), len(answers))

    def box(self) -> tuple[float, tuple[float, float]]:
        """Mean ξ over the lattice on [0, 1]², with its 95% interval over pictures."""
        changes = []
        for point in _box():
            here, (clean, triggered) = self.readings[point], self._alone(point)
            # Both views of a picture are drawn together. Where some have no triggered view, the others' weigh more, so
            # that the mean is that of the shares.
            row = (here.clean != clean).double()
            row[self.views.rows] += (here.triggered != triggered).double() * len(row) / len(self.views.rows)
            changes.append(row)
        return mean_error(torch.stack(changes))

    def errors(self) -> Tensor:
        """ξ over the lattice, (points, points) by α_c and α_t, interpolated where nothing was looked at."""
        axis = self.axis
        values = torch.full((self.points, self.points), float("nan"), dtype=torch.float64)
        for i, a in enumerate(axis):
            for j, b in enumerate(axis):
                if (a, b) in self.readings:
                    values[i, j] = self.error((a, b)).value
        step = _coarse(self.points)
        while step > 1:
            half = step // 2
            for i in range(0, self.points - step, step):
                for j in range(0, self.points - step, step):
                    _fill(values, i, j, half)
            step = half
        return values


def look(
    clip: Clip,
    plane: Plane,
    head: Tensor,
    surface: Surface,
    *,
    sharp: float = 0.05,
    keep: Callable[[Point, Reading], None] | None = None,
) -> None:
    """Fill a surface, in place; `clip`'s weights are back at θ_0 afterwards.

    Args:
        plane: walks `clip`'s own weights; α_c is its first coordinate.
        head: (C, D) unit rows.
        sharp: a cell of the lattice whose corners' ξ differ by more is looked at more closely; 0 looks everywhere.
        keep: told of every point as it is looked at; points that are in `surface.seen` already are not looked at again.
    """
    axis, size = surface.axis, batch_size(clip.image_size, clip.device)
    count, step = surface.points, _coarse(surface.points) if sharp else 1
    lattice = {(axis[i], axis[j]) for i in range(0, count, step) for j in range(0, count, step)}
    cross = {p for a in axis for p in ((a, 0.0), (0.0, a))} | {(0.0, 0.0)}
    box = _box()
    cross |= {p for a, b in box for p in ((a, 0.0), (0.0, b))}
    whole = count**2 + len((cross | set(box)) - {(a, b) for a in axis for b in axis})
    with Progress("ξ", whole) as bar:

        def visit(points: Iterable[Point]) -> None:
            for point, settled in _snake(p for p in points if p not in surface.readings):
                (plane.settle if settled else plane.to)(*point)
                clean, triggered = surface.views.clean, surface.views.triggered
                surface.readings[point] = Reading(
                    predict(clip, clean, head, size).cpu(), predict(clip, triggered, head, size).cpu()
                )
                if keep is not None:
                    keep(point, surface.readings[point])
                bar.step(len(surface.readings))

        try:
            visit(lattice | cross | set(box))
            while step > 1:
                half = step // 2
                closer: set[Point] = set()
                for i in range(0, count - step, step):
                    for j in range(0, count - step, step):
                        corners = [(axis[i + u], axis[j + v]) for u in (0, step) for v in (0, step)]
                        if all(p in surface.readings for p in corners):
                            values = [surface.error(p).value for p in corners]
                            if max(values) - min(values) > sharp:
                                closer |= {(axis[i + u], axis[j + v]) for u, v in _middles(half)}
                visit(closer)
                step = half
        finally:
            plane.settle(0.0, 0.0)


def _snake(points: Iterable[Point]) -> Iterable[tuple[Point, bool]]:
    """Row by row, there and back, each with whether a row begins."""
    rows: dict[float, list[float]] = {}
    for a, b in points:
        rows.setdefault(a, []).append(b)
    for turn, a in enumerate(sorted(rows)):
        for place, b in enumerate(sorted(rows[a], reverse=turn % 2 == 1)):
            yield (a, b), place == 0


def _coarse(points: int) -> int:
    """Steps of the fine lattice to one of the coarse: `COARSE`, or the largest half of it that divides the lattice."""
    step = COARSE
    while (points - 1) % step:
        step //= 2
    return step


def _middles(half: int) -> list[tuple[int, int]]:
    return [(0, half), (half, 0), (half, half), (half, 2 * half), (2 * half, half)]


def _fill(values: Tensor, i: int, j: int, half: int) -> None:
    """Means of a cell's corners where its middles were not looked at; (i, j) is its lowest corner."""
    cell = values[i : i + 2 * half + 1, j : j + 2 * half + 1]
    corners = cell[:: 2 * half, :: 2 * half].clone()
    for u, v in _middles(half):
        if cell[u, v].isnan():
            near = corners if u == v else (corners[u // (2 * half)] if v == half else corners[:, v // (2 * half)])
            cell[u, v] = near.mean()


def _box() -> list[Point]:
    ends = [_tidy(i / (BOX - 1)) for i in range(BOX)]
    return [(a, b) for a in ends for b in ends]


def _tidy(value: float) -> float:
    """The same number however it was come by."""
    return round(value, 9) + 0.0
