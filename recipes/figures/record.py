"""What `bench` measured, kept beside the documents: one CSV per recipe, so that a page outlives the run folder.

A run folder holds models and is too large to keep; a grid of several seeds takes more than one machine's day. Rows are
merged by data set, attack, seed and defence; a cell found in a run folder replaces the recorded one.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from unbackdoor.base.disk import write_text
from unbackdoor.metrics.rates import Rate

Row = dict[str, Any]

_NAMES = ("data", "attack", "seed", "defence")  # a suspect has no defence
_RATES = ("ca", "asr", "triggered_accuracy")
COLUMNS = (
    *_NAMES, "lr", "ca_before", *(f"{rate}{tail}" for rate in _RATES for tail in ("", "_n")),
    "rebound_asr", "rebound_n", "alpha", "images", "labels", "seconds",
)  # fmt: skip


def key(row: Row) -> tuple[str, str, int, str]:
    """What tells one cell of a recipe from another."""
    return row["data"], row["attack"], int(row["seed"]), row.get("defence") or ""


def read(path: Path) -> dict[tuple[str, str, int, str], Row]:
    """Recorded cells, in the shape of `bench.grid.collect`, as far as pages need it."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = [_grown(line) for line in csv.DictReader(file)]
    return {key(row): row for row in rows}


def write(path: Path, rows: list[Row]) -> None:
    """Write cells in the order given."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_flat(row) for row in rows)
    write_text(path, text.getvalue())


def _flat(row: Row) -> Row:
    line: Row = {name: row.get(name, "") for name in ("data", "attack", "seed", "defence")}
    for name in _RATES:
        found = row["after"].get(name)
        if found is not None:
            line[name], line[f"{name}_n"] = _short(found["value"]), found["n"]
    if row["kind"] == "cure":
        line["ca_before"] = _short(row["before"]["ca"]["value"])
        line |= {name: _short(row[name]) for name in ("images", "labels", "seconds")}
        alpha = row["facts"].get("alpha")
        line["alpha"] = _short(alpha)
        if row.get("rebound"):
            again = row["rebound"][-1]["asr"]
            line["rebound_asr"], line["rebound_n"] = _short(again["value"]), again["n"]
    if row.get("lr") is not None:
        line["lr"] = _short(row["lr"])
    return line


def _grown(line: dict[str, str]) -> Row:
    def rate(value: str, n: str) -> Row | None:
        if not n:
            return None
        counted = Rate(round(float(value) * int(n)), int(n))
        return {**counted.as_dict(), "value": float(value)}

    row: Row = {name: line[name] for name in ("data", "attack", "defence")}
    row["seed"] = int(line["seed"])
    row["kind"] = "cure" if line["defence"] else "suspect"
    row["after"] = {name: rate(line[name], line[f"{name}_n"]) for name in _RATES}
    if line["lr"]:
        row["lr"] = float(line["lr"])
    if row["kind"] == "cure":
        before = float(line["ca_before"])
        row["before"] = {"ca": {"value": before}}
        row["retention"] = row["after"]["ca"]["value"] / before if before else None
        row |= {name: float(line[name]) if line[name] else None for name in ("images", "labels", "seconds")}
        row["facts"] = {"alpha": float(line["alpha"]) if line["alpha"] else None}
        again = rate(line["rebound_asr"], line["rebound_n"])
        row["rebound"] = [{"asr": again}] if again else None
    return row


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
