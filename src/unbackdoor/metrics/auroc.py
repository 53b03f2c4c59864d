"""Area under the ROC curve with an interval that stays inside [0, 1]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from unbackdoor.metrics.rates import Z95


@dataclass(frozen=True)
class Auroc:
    """Chance that a positive scores above a negative, ties counting half, with a 95% interval."""

    value: float
    positives: int
    negatives: int
    interval: tuple[float, float]

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "value": self.value,
            "positives": self.positives,
            "negatives": self.negatives,
            "interval": list(self.interval),
        }


def auroc(positives: Sequence[float], negatives: Sequence[float]) -> Auroc:
    """Mann–Whitney's U over the number of pairs, with the interval of Newcombe 2006 (Stat. Med. 25:559, method 5).

    The interval holds all θ with (θ̂ − θ)² ≤ z²·V(θ), V being Hanley and McNeil's variance at θ with both group sizes
    replaced by their mean in its correction; like Wilson's for a share, it does not collapse at 0 and 1.

    Raises:
        ValueError: one side is empty.
    """
    if not positives or not negatives:
        raise ValueError("an AUROC needs at least one positive and one negative score")
    won = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    m, n = len(positives), len(negatives)
    value = won / (m * n)

    def outside(theta: float) -> float:
        inner = 1 + ((m + n) / 2 - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return (value - theta) ** 2 - Z95**2 * theta * (1 - theta) * inner / (m * n)

    return Auroc(value, m, n, (_edge(outside, 0.0, value), _edge(outside, 1.0, value)))


def _edge(outside: Callable[[float], float], far: float, near: float) -> float:
    """Between `far`, which may be out, and `near`, which is in: the place where the interval ends."""
    if outside(far) <= 0:
        return far
    for _ in range(60):
        middle = (far + near) / 2
        far, near = (middle, near) if outside(middle) > 0 else (far, middle)
    return near
