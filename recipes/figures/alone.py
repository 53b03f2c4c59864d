"""How well the classes of one model tell whether it is backdoored, without any clean model: `scan/alone.py`.

    python recipes/figures/alone.py

Reads docs/lab/cells/zoo.jsonl and runs no model. The limit is the score of the highest clean model of the calibration
half; rates are the test half's. Prints them, and what a few other ways to make one number of the leads come to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import zoo

from unbackdoor.bench.zoo.recipe import CLEAN
from unbackdoor.bench.zoo.tables import area_text, rate_text
from unbackdoor.bench.zoo.verdicts import TOOK, scores_of
from unbackdoor.metrics.auroc import auroc
from unbackdoor.metrics.rates import Rate
from unbackdoor.scan.alone import VOTERS, standing

Scores = Mapping[str, Mapping[str, float]]
Reading = Callable[[Scores], tuple[float, str]]  # score and class


def votes(scores: Scores) -> tuple[float, str]:
    """What `scan` tells."""
    whole = standing(scores)
    assert whole is not None
    return whole.score, whole.target


def lead_of_one(scores: Scores) -> tuple[float, str]:
    """The largest lead of any search."""
    return max((v, c) for each in scores.values() for c, v in each.items())


def lead_of_two(scores: Scores) -> tuple[float, str]:
    """The largest second lead of a class: two searches agree."""
    by_class: dict[str, list[float]] = {}
    for each in scores.values():
        for c, v in each.items():
            by_class.setdefault(c, [0.0]).append(v)
    return max((sorted(values)[-2], c) for c, values in by_class.items())


def margin(scores: Scores) -> tuple[float, str]:
    """Votes for the foremost class over those for the next."""
    whole = standing(scores)
    assert whole is not None
    first, *rest = sorted(whole.totals.values(), reverse=True)
    return first - (rest[0] if rest else 0.0), whole.target


READINGS: dict[str, Reading] = {
    "votes": votes,
    "largest lead": lead_of_one,
    "second lead": lead_of_two,
    "margin of votes": margin,
}


def scores(row: dict[str, Any], twin: bool) -> Scores:
    """A recorded member's leads by class, with its twin or as they are without one."""
    row = row if twin else zoo.without_twins(row)
    return {name: scores_of(row["seen"]["inverters"][name]) for name in VOTERS}


def measured(rows: list[dict[str, Any]], twin: bool, reading: Reading) -> str:
    """A line: limit, and the test half's AUROC, false alarms, backdoored models found, and right targets."""
    points: dict[str, list[tuple[float, bool, bool]]] = {"calibration": [], "test": []}
    for row in rows:
        clean = row["family"] == CLEAN
        if clean or row["card"]["after"]["asr"]["value"] >= TOOK:
            score, target = reading(scores(row, twin))
            points[row["half"]].append((score, not clean, target == row["card"]["target"]))
    limit = max(score for score, backdoored, _ in points["calibration"] if not backdoored)
    cells = [f"{limit:.4f}"]
    for half in ("calibration", "test"):
        bad = [(score, right) for score, backdoored, right in points[half] if backdoored]
        good = [score for score, backdoored, _ in points[half] if not backdoored]
        cells += [area_text(auroc([s for s, _ in bad], good).as_dict())]
        if half == "test":
            cells += [rate_text(Rate(sum(s > limit for s in good), len(good)).as_dict())]
        cells += [rate_text(Rate(sum(s > limit for s, _ in bad), len(bad)).as_dict())]
        cells += [rate_text(Rate(sum(right for _, right in bad), len(bad)).as_dict())] if half == "test" else []
    return " | ".join(cells)


def main() -> None:
    rows = [json.loads(line) for line in zoo.LINES.read_text(encoding="utf-8").splitlines()]
    print("| reading | limit | calibration: AUROC | found | test: AUROC | false alarms | found | right target |")
    print("|" + " --- |" * 8)
    for twin in (False, True):
        for name, reading in READINGS.items():
            print(f"| {name}, {'with' if twin else 'without'} a twin | {measured(rows, twin, reading)} |")


if __name__ == "__main__":
    main()
