"""No rate stands alone: value, count and 95% Wilson interval travel together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

Z95 = 1.959963984540054  # 97.5% quantile of the standard normal distribution


@dataclass(frozen=True)
class Rate:
    """`hits` of `n`."""

    hits: int
    n: int

    @property
    def value(self) -> float:
        """hits / n, NaN when nothing was counted."""
        return self.hits / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95% Wilson score interval (Wilson 1927); (0, 1) when nothing was counted."""
        return wilson(self.hits, self.n)

    def as_dict(self) -> dict[str, Any]:
        """JSON form: value (null when n is 0), n, interval."""
        return {"value": self.value if self.n else None, "n": self.n, "interval": list(self.interval)}


def wilson(hits: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson score interval of a binomial share.

    Args:
        hits: 0 ≤ hits ≤ n.
        n: trials; with 0 trials the interval is (0, 1).
        z: normal quantile, 1.96 for 95%.

    Raises:
        ValueError: hits outside 0..n.
    """
    if not 0 <= hits <= n:
        raise ValueError(f"{hits} hits of {n} trials: hits must lie between 0 and n")
    if n == 0:
        return 0.0, 1.0
    p, zz = hits / n, z * z
    center = (p + zz / (2 * n)) / (1 + zz / n)
    half = z * math.sqrt(p * (1 - p) / n + zz / (4 * n * n)) / (1 + zz / n)
    # At the ends the formula gives 0 and 1 up to rounding.
    low = 0.0 if hits == 0 else max(0.0, center - half)
    high = 1.0 if hits == n else min(1.0, center + half)
    return low, high
