"""CA against ASR after the cure, one SVG per attack: top left is where a defence wants to be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unbackdoor.bench.tables import COLUMNS, per_attack
from unbackdoor.report.charts import Dot, scatter_chart


def scatters(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """SVG text by attack: a point per data set and defence, with bars of one standard deviation over seeds."""
    place = {c.name: i for i, c in enumerate(COLUMNS)}
    by_attack: dict[str, list[Dot]] = {}
    for block in per_attack(rows):
        for line in block:
            _, data, attack, defense = line.labels
            ca, asr = line.cells[place["CA"]], line.cells[place["ASR"]]
            if ca.mean is not None and asr.mean is not None:
                dot = Dot(asr.mean, ca.mean, defense, data, asr.deviation or 0.0, ca.deviation or 0.0)
                by_attack.setdefault(attack, []).append(dot)
    every = [dot for dots in by_attack.values() for dot in dots]
    defenses, sets = list(dict.fromkeys(d.group for d in every)), list(dict.fromkeys(d.kind for d in every))
    return {
        attack: scatter_chart(f"After the cure of {attack}", dots, defenses, sets, "ASR (%)", "CA (%)")
        for attack, dots in by_attack.items()
    }
