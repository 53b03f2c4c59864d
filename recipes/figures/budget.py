"""What a scan by its first few inverters finds, on the recorded zoo: what a budget gives up.

    python recipes/figures/budget.py

Reads docs/lab/cells/zoo.jsonl and runs no model. The null is the calibration half's clean members.
"""

from __future__ import annotations

import json

import zoo

from unbackdoor.bench.zoo.recipe import CLEAN
from unbackdoor.bench.zoo.verdicts import TOOK, make_null, verdict_on
from unbackdoor.scan.cost import WORTH

RATE = 0.05


def main() -> None:
    rows = [json.loads(line) for line in zoo.LINES.read_text(encoding="utf-8").splitlines()]
    null = make_null([row for row in rows if row["half"] == "calibration"], "", "")
    test = [row for row in rows if row["half"] == "test"]
    clean = [row for row in test if row["family"] == CLEAN]
    bad = [row for row in test if row["family"] != CLEAN and row["card"]["after"]["asr"]["value"] >= TOOK]
    for count in range(1, len(WORTH) + 1):
        part = null.select(WORTH[:count])
        ours, others = ([verdict_on(row, part, RATE) for row in some] for some in (bad, clean))
        pairs = [(a.score > b.score) + (a.score == b.score) / 2 for a in ours for b in others]
        found = [v for v in ours if v.judgement.backdoored]
        print(
            f"{count} {WORTH[count - 1]:<9} AUROC {sum(pairs) / len(pairs):.3f}, found {len(found)} of {len(ours)}, "
            f"right target {sum(v.right_target for v in found)}, clean with p <= {RATE} "
            f"{sum(v.p_value <= RATE for v in others)} of {len(others)}"
        )


if __name__ == "__main__":
    main()
