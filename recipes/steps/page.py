"""The tables of recipes/steps: every rule on every suspect, and the means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unbackdoor.metrics.rates import Rate

Row = dict[str, Any]
LEAST = 4


def write_page(rows_file: Path, page: Path) -> None:
    """Write Markdown: a table of means over suspects, and one over cells with intervals."""
    rows = [json.loads(line) for line in rows_file.read_text(encoding="utf-8").splitlines()]
    page.write_text("\n".join([*_means(rows), "", *_cells(rows), ""]), encoding="utf-8")


def _names(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["rule"] for row in rows))


def _means(rows: list[Row]) -> list[str]:
    """Over the suspects that every rule has finished, so that none is compared on easier ground.

    Rules that were tried on fewer than `LEAST` suspects stand among the cells alone.
    """
    places = {rule: {_suspect(row) for row in rows if row["rule"] == rule} for rule in _names(rows)}
    places = {rule: own for rule, own in places.items() if len(own) >= LEAST}
    rules = list(places)
    common = set.intersection(*places.values()) if places else set()
    before = {_suspect(row): _rate(row, "ca").value for row in rows if row["rule"] == "nothing"}
    lines = [
        f"{len(common)} suspects: {', '.join(sorted(' '.join(s) for s in common))}.",
        "",
        _line("rule", "retention", "least", "ASR", "largest", "triggered accuracy", "least", "seconds"),
        _line(*["---"] * 8),
    ]
    for rule in rules:
        own = [row for row in rows if row["rule"] == rule and _suspect(row) in common]
        kept = [100 * _rate(row, "ca").value / before[_suspect(row)] for row in own]
        asr, back = ([100 * _rate(row, name).value for row in own] for name in ("asr", "triggered_accuracy"))
        seconds = f"{_mean([row['seconds'] for row in own]):.0f}" if all("seconds" in row for row in own) else ""
        numbers = (_mean(kept), min(kept), _mean(asr), max(asr), _mean(back), min(back))
        lines.append(_line(rule, *(f"{number:.1f}" for number in numbers), seconds))
    return lines


def _cells(rows: list[Row]) -> list[str]:
    lines = [
        "| base | attack | rule | CA | ASR | triggered accuracy | α |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(rows, key=_suspect):
        cells = [_text(_rate(row, name)) for name in ("ca", "asr", "triggered_accuracy")]
        alpha = f"{row['alpha']:.3g}{'' if row['satisfied'] else ' †'}" if "alpha" in row else ""
        lines.append(_line(row["base"], row["attack"], row["rule"], *cells, alpha))
    return [*lines, "", "† no α kept both limits on held-out views."]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _suspect(row: Row) -> tuple[str, str]:
    return row["base"], row["attack"]


def _rate(row: Row, name: str) -> Rate:
    return Rate(*row[name])


def _text(rate: Rate) -> str:
    low, high = rate.interval
    return f"{100 * rate.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
