"""Cure again the members that the recorded zoo cured, without examining them anew.

    python recipes/zoo/cures.py --data-root PATH --out FOLDER [--half test] [--turn 0/2]

A zoo's examinations take days; its cures rest on one or two of seven inverters. Each member is made again, the
inverters that its recorded finding shows are run again, and it is cured of what they recover. What is finished, or on
record by the code as it is, is not run again; `python recipes/figures/zoo.py --data-root PATH --runs FOLDER` then
renders the page from it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from unbackdoor.base.errors import InputError
from unbackdoor.bench.cells import run_cell
from unbackdoor.bench.store import address
from unbackdoor.bench.zoo.recipe import Zoo, classes_of, examination, members, read_zoo, recovery
from unbackdoor.bench.zoo.verdicts import Verdict, judge_rows
from unbackdoor.clip.load import load
from unbackdoor.scan.detection import architecture
from unbackdoor.scan.examine import settings
from unbackdoor.scan.inverters import inverter_names, versions
from unbackdoor.unlearning.unknown import VERSION
from unbackdoor.verbs.configs.scan import FALSE_ALARM_RATE
from unbackdoor.weights.files import state_hash

ROOT = Path(__file__).parent.parent.parent


def on_record(row: dict[str, Any]) -> bool:
    """Whether the code as it is has cured the member."""
    return any(cure and cure["version"] == VERSION for cure in (row["cured"], row.get("again")))


def recorded(root: Path) -> tuple[Zoo, dict[str, dict[str, Any]], dict[str, list[Verdict]]]:
    """The zoo's recipe, its members by address, and the recorded ones as they were judged, by half."""
    plan, base = read_zoo(ROOT / "recipes/zoo/embedded.yaml", root), load("embedded")
    weights = state_hash(base.state())
    population = {address(m["config"]): m for m in members(plan, weights, classes_of(plan))}
    lines = (ROOT / "docs/lab/cells/zoo.jsonl").read_text(encoding="utf-8").splitlines()
    known = {row["address"]: row for row in map(json.loads, lines) if row["versions"] == versions()}
    rows = [known[key] for key in population if key in known]
    identity = settings(plan.images, inverter_names(), weights)
    _, judged = judge_rows(rows, list(plan.halves), architecture(base.state()), identity, FALSE_ALARM_RATE)
    return plan, population, judged


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True, help="folder that holds cifar10/, gtsrb/, …")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--half", default="test")
    parser.add_argument("--turn", default="0/1", help="I/N: members I, I + N, I + 2N, … alone, for N processes")
    args = parser.parse_args()
    turn, turns = map(int, args.turn.split("/"))
    plan, population, judged = recorded(args.data_root)
    named = [v for v in judged[args.half] if (v.judgement.backdoored or v.row["cured"]) and not on_record(v.row)]
    failed = 0
    for number, v in enumerate(named[turn::turns]):
        member = population[v.row["address"]]
        cure = recovery(plan, member, v.judgement)["config"]
        shown = {lead["by"]["inverter"]: lead["by"]["version"] for lead in cure["leads"]}
        try:
            run_cell(args.out, member["config"])
            run_cell(args.out, {**examination(plan, member)["config"], "versions": shown})
            result = run_cell(args.out, cure)
        except InputError as error:
            failed += 1
            print(f"{member['names']}: {error}", file=sys.stderr, flush=True)
            continue
        old = v.row["cured"] or {"after": {}, "retention": None}
        asr, was = (row["after"].get("asr", {}).get("value") for row in (result, old))  # a clean member has none
        print(
            f"{number + 1}/{len(named[turn::turns])} {v.row['family']} {v.row['data']} ASR {asr} "
            f"retention {result['retention']:.4f} (recorded: {was} {old['retention']})",
            flush=True,
        )
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
