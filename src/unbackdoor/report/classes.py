"""Who is hit: what the trigger does to the images of every class, as rows of a table and in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unbackdoor.metrics.rates import Rate
from unbackdoor.report.verdict import percent

ROWS = 500  # that a page holds; the result has them all
_NAME = 60  # letters of a name
_HIT = 0.5  # share of a class's images beyond which it counts as hit


def class_rows(lines: Sequence[dict[str, Any]], target: str) -> list[dict[str, Any]]:
    """Rows of the table, what the suspect moved most first: `name`, `n` and six cells.

    A cell has the share as text and as a number to sort by, and its 95% Wilson interval; None where nothing is counted,
    as of triggered images of the target's own class.
    """
    order = sorted(lines, key=lambda line: (line["name"] == target, -line["before"]["moved"] / max(line["n"], 1)))
    return [
        {
            "name": line["name"] if len(line["name"]) <= _NAME else line["name"][: _NAME - 1] + "…",
            "n": line["n"],
            "target": line["name"] == target,
            "cells": [
                None if line["name"] == target and key != "correct" else share_cell(line[when][key], line["n"])
                for key in ("correct", "triggered_correct", "moved")
                for when in ("before", "after")
            ],
        }
        for line in order[:ROWS]
    ]


def share_cell(hits: int, n: int) -> dict[str, Any] | None:
    """A share of `n` for a table: what is read, what it is sorted by, and the interval; None of nothing."""
    if not n:
        return None
    rate = Rate(hits, n)
    low, high = rate.interval
    return {"value": rate.value, "text": percent(rate.value), "interval": f"{100 * low:.1f}–{100 * high:.1f}"}


def class_sentence(lines: Sequence[dict[str, Any]], target: str) -> str:
    """How many of the other classes the trigger moved, before and after."""
    others = [line for line in lines if line["name"] != target]

    def hit(when: str) -> int:
        return sum(line[when]["moved"] > _HIT * line["n"] for line in others)

    return (
        f"Of {len(others)} other classes the trigger moved more than half of the images in {hit('before')} on the "
        f"suspect, and in {hit('after')} on the cured model."
    )
