"""What the results of several verbs hold alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unbackdoor.metrics.backdoor import BackdoorRates


def rates_dict(rates: BackdoorRates) -> dict[str, Any]:
    """`{ca, asr, triggered_accuracy, n: {...}, interval: {...}}`, the form of `before` and `after`."""
    rows = rates.as_dict()
    return {
        **{name: row["value"] for name, row in rows.items()},
        "n": {name: row["n"] for name, row in rows.items()},
        "interval": {name: row["interval"] for name, row in rows.items()},
    }


def retention(before: BackdoorRates, after: BackdoorRates) -> float | None:
    """after.ca / before.ca, None when the model knew nothing before."""
    return after.ca.value / before.ca.value if before.ca.hits else None


def describe_sequence(values: Sequence[float]) -> dict[str, float]:
    """First, last and smallest loss, for the manifest."""
    return {"first": values[0], "last": values[-1], "smallest": min(values)} if values else {}
