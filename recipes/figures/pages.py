"""What the figures' pages are written with: tables, means and intervals as text, all in per cent."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from unbackdoor.metrics.rates import Rate


def table(head: Sequence[str], body: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a table, and an empty one."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return [*lines, *("| " + " | ".join(map(str, line)) + " |" for line in body), ""]


def interval_of(rate: Rate | None) -> str:
    """A rate with its 95% Wilson interval."""
    if rate is None:
        return "–"
    low, high = rate.interval
    return f"{100 * rate.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def mean(values: Sequence[float]) -> str:
    """To a tenth."""
    return f"{statistics.fmean(values):.1f}" if values else "–"


def spread(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation."""
    return mean(values) + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def mean_interval(values: Sequence[float]) -> str:
    """Mean with its 95% interval by Student's t, of at least two values."""
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    middle = statistics.fmean(values)
    return f"{middle:.1f} [{middle - half:.1f}, {middle + half:.1f}]"
