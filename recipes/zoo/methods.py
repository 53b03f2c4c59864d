"""Cure members of the zoo's calibration half of what was recovered, by several vectors, and compare.

    python recipes/zoo/methods.py --data-root PATH --out FOLDER [--data cifar10] [--families text,ripple] [--methods …]

Each member is made, and the inverters that its recorded finding shows are run; then it is cured by every method from
the same trigger, the recovered one and its variants, as `unlearn --scan` does in one round, but without the rehearsal,
so that all methods are shown the same. True ASR and retention are measured with the attack that the member really has.
Prints a table; what is finished is not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cures import recorded

from unbackdoor.base.disk import write_text
from unbackdoor.base.manifest import write_json
from unbackdoor.bench.cells import run_cell
from unbackdoor.bench.store import address
from unbackdoor.bench.zoo.cells import patient
from unbackdoor.bench.zoo.recipe import examination, recovery
from unbackdoor.clip.difference import save_difference
from unbackdoor.clip.load import load
from unbackdoor.evaluation import Task, evaluate_images
from unbackdoor.scan.variants import variants
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.attack import Attack
from unbackdoor.unlearning.alpha import BLIND, AlphaConfig
from unbackdoor.unlearning.known import OWN_REGAIN, cure_known
from unbackdoor.unlearning.unknown import FORGET, TUNING
from unbackdoor.unlearning.vector import METHODS, VectorConfig


def ways() -> dict[str, tuple[VectorConfig, AlphaConfig]]:
    """How a vector is taken and α chosen, by name."""
    blind = {name: replace(METHODS[name], samples=FORGET, validation=TUNING) for name in ("distilled", "lora")}
    return {
        "distilled": (blind["distilled"], BLIND),
        "lora": (blind["lora"], BLIND),
        # As for a known attack: α goes on to where triggered images regain their answers, and a vector that falls
        # short is taken again.
        "lora, again": (blind["lora"], replace(BLIND, regain=OWN_REGAIN)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True, help="folder that holds cifar10/, gtsrb/, …")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--families", default="text,lowfreq,ripple,triangles,issba,nashville")
    parser.add_argument("--methods", default=";".join(ways()), help="separated by semicolons")
    args = parser.parse_args()
    cells = recoveries(args.data_root, args.data)
    print("| member | method | ASR before | true ASR | CA before, after | retention | triggered accuracy | α | s |")
    print("|" + " --- |" * 9, flush=True)
    for family in args.families.split(","):
        cell = cells[family]
        run_cell(args.out, cell["member"])
        run_cell(args.out, cell["examination"])
        for name in args.methods.split(";"):
            print(row(family, name, cured(args.out, cell["recovery"], name)), flush=True)
    return 0


def recoveries(root: Path, data: str) -> dict[str, Mapping[str, Any]]:
    """By family, the configurations of the first recorded member of the calibration half on `data` that was found."""
    plan, population, judged = recorded(root)
    cells: dict[str, Mapping[str, Any]] = {}
    for v in judged["calibration"]:
        if v.truth and v.judgement.backdoored and v.row["data"] == data and v.row["family"] not in cells:
            member = population[v.row["address"]]
            cure = recovery(plan, member, v.judgement)["config"]
            by = {lead["by"]["inverter"]: lead["by"]["version"] for lead in cure["leads"]}
            look = {**examination(plan, member)["config"], "versions": by}
            cells[v.row["family"]] = {"member": member["config"], "examination": look, "recovery": cure}
    return cells


def cured(out: Path, config: dict[str, Any], name: str) -> dict[str, Any]:
    """The member cured by one of `ways`; the cured model is kept as a difference from the base."""
    member = out / "methods" / address(config["leads"][0]["by"]["member"])
    folder = member / name.replace(", ", "-")
    if (folder / "result.json").exists():
        return dict(json.loads((folder / "result.json").read_text(encoding="utf-8")))
    folder.mkdir(parents=True, exist_ok=True)
    who = patient(out, config, "auto", *ways()[name])
    suspect, lead = who.suspect, who.leads[0]
    target = suspect.names.index(lead.target)
    if not (member / "trigger.txt").exists():
        write_text(member / "trigger.txt", variants(suspect.subject(), lead.inverter, lead.trigger, target).spec())
    attack = Attack(parse_trigger(f"@{member / 'trigger.txt'}"), target, lead.target)
    began = time.monotonic()
    cure = cure_known(suspect.clip, suspect.forget, Task(suspect.head, attack), suspect.plan)
    seconds, after = round(time.monotonic() - began), evaluate_images(suspect.clip, who.test, who.task)
    result = {
        "before": who.before,
        "after": after.as_dict(),
        "retention": after.ca.value / who.before["ca"]["value"],
        "alpha": cure.search.alpha,
        "satisfied": cure.search.satisfied,
        "attempts": cure.attempts,
        "seconds": seconds,
    }
    save_difference(load("embedded"), suspect.clip, folder / "cured.safetensors")
    write_json(folder / "result.json", result)
    return result


def row(family: str, name: str, result: dict[str, Any]) -> str:
    """A line of the table."""
    before, after = result["before"], result["after"]

    def text(rate: dict[str, Any]) -> str:
        low, high = (100 * v for v in rate["interval"])
        return f"{100 * rate['value']:.1f} [{low:.1f}, {high:.1f}]"

    cells = [
        f"{100 * before['asr']['value']:.1f}",
        f"{text(after['asr'])}, n = {after['asr']['n']}",
        f"{100 * before['ca']['value']:.1f}, {text(after['ca'])}, n = {after['ca']['n']}",
        f"{100 * result['retention']:.1f}",
        text(after["triggered_accuracy"]),
        f"{result['alpha']:.3g}" + ("" if result["satisfied"] else ", short") + f", {result['attempts']} taken",
        str(result["seconds"]),
    ]
    return f"| {family} | {name} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
