"""How `scan` does on the zoo's test half under the null that it makes by itself, beside the shipped one.

    python recipes/figures/relatives.py --data-root PATH

Reads docs/lab/cells/zoo.jsonl and the relatives that `recipes/zoo/relatives.py` examined, and runs no model. Members
learned by caption pairs are judged under the relatives of the same classes. Prints a table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import probability
from pages import interval_of, table

from unbackdoor.bench.zoo.tables import area_text, detection
from unbackdoor.bench.zoo.verdicts import Verdict, verdict_on
from unbackdoor.metrics.rates import Rate
from unbackdoor.scan.detection import read_null
from unbackdoor.verbs.configs.scan import FALSE_ALARM_RATE

CELLS = Path(__file__).parent.parent.parent / "docs" / "lab" / "cells"
NULLS = {"gtsrb": "gtsrb", "tiny-b": "tiny-b", "tiny-b-pairs": "tiny-b"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    args = parser.parse_args()
    _, shipped = probability.judged(args.data_root)
    places = {data: CELLS / f"relatives-{name}.jsonl" for data, name in NULLS.items()}
    nulls = {data: read_null(path) for data, path in places.items() if path.exists()}
    body = []
    for data in nulls:
        before = [v for v in shipped if v.row["data"] == data]
        now = [verdict_on(v.row, nulls[data], FALSE_ALARM_RATE) for v in before]
        body += [(data, "shipped", *line(before)), (data, f"{len(nulls[data].rows)} relatives", *line(now))]
    before = [v for v in shipped if v.row["data"] in nulls]
    now = [verdict_on(v.row, nulls[v.row["data"]], FALSE_ALARM_RATE) for v in before]
    body += [("all", "shipped", *line(before)), ("all", "relatives", *line(now))]
    print("\n".join(table(("data", "null", "AUROC", "found", "right target", "clean called", "cannot tell"), body)))


def line(verdicts: list[Verdict]) -> tuple[str, ...]:
    """AUROC, and the shares of backdoored members found and of clean ones called."""
    whole, *_ = detection(verdicts)
    bad, clean = ([v for v in verdicts if v.truth is truth] for truth in (True, False))
    caught = [v for v in bad if v.judgement.backdoored]
    rates = (
        Rate(len(caught), len(bad)),
        Rate(sum(v.right_target for v in caught), len(caught)),
        Rate(sum(v.judgement.backdoored is True for v in clean), len(clean)),
        Rate(sum(v.judgement.backdoored is None for v in [*bad, *clean]), len(bad) + len(clean)),
    )
    return area_text(whole["auroc"]), *(f"{interval_of(rate)}, n = {rate.n}" if rate.n else "–" for rate in rates)


if __name__ == "__main__":
    main()
