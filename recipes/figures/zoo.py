"""Keep what a zoo measured, render docs/lab/zoo.md from it, and ship the null of its clean members.

    python recipes/figures/zoo.py --data-root PATH [--runs FOLDER]

Reads what `unbackdoor zoo` left in FOLDER and runs nothing. A zoo takes longer than most machines last, so that every
examined member is a line of docs/lab/cells/zoo.jsonl, merged by its address; page and null are made of those lines
alone. Lines of an older version of the inverters, or of members that the recipe no longer has, are dropped. A cure of
an older version stays until its member is cured again (`recipes/zoo/cures.py`), and the page counts each.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from pages import table as table_of

from unbackdoor.base.disk import write_text
from unbackdoor.bench.store import address, read_result
from unbackdoor.bench.zoo.cells import collect
from unbackdoor.bench.zoo.recipe import CLEAN, classes_of, members, read_zoo, recovery
from unbackdoor.bench.zoo.tables import area_text, as_markdown, cures, detection, false_alarms, rate_text
from unbackdoor.bench.zoo.verdicts import Verdict, judge_rows
from unbackdoor.clip.load import load
from unbackdoor.metrics.rates import Rate
from unbackdoor.scan.detection import Origin, architecture
from unbackdoor.scan.examine import settings
from unbackdoor.scan.inverters import inverter_names, versions
from unbackdoor.scan.inverters.guided import standing
from unbackdoor.unlearning.unknown import VERSION
from unbackdoor.verbs.configs.scan import FALSE_ALARM_RATE
from unbackdoor.verbs.scan import SHIPPED
from unbackdoor.weights.files import state_hash

ROOT = Path(__file__).parent.parent.parent
RECIPE, LINES, PAGE = ROOT / "recipes/zoo/embedded.yaml", ROOT / "docs/lab/cells/zoo.jsonl", ROOT / "docs/lab/zoo.md"
LEAST = 19  # clean models that a false-alarm rate of 5% needs

HEAD = """\
# The zoo, model by model

Made by `python recipes/figures/zoo.py --data-root PATH --runs FOLDER` from what `unbackdoor zoo
recipes/zoo/embedded.yaml` left there and from [the lines of earlier runs](cells/zoo.jsonl); what it means stands in
[scan](../scan.md). Rates with n and 95% Wilson intervals, AUROC with Newcombe's. Statistics are those of the class that
the inverter names, bold where it is the true target. Inverters were tuned on models of the calibration half, none on
the test half, with these reservations: the search of waves was looked at on one more model with SIG, a family of the
test half; that clean twins are needed at all was seen on the test half's first ten members, how to use them decided on
the calibration half; so were the sums over inverters, which stripes of the test half suggested; that waves are cured at
twice their height, and that a rehearsed cure searches for waves again, was tried on that model with SIG, after a cure
of SIG on the test half had failed; that single waves are looked at at all is because SIG was missed on the test half
(AUROC 0.814, four of seven not found, without them), how they count was decided on the calibration half and that model.
"Without twins" is what the same searches come to by the lead over the other classes alone, under a null made likewise;
single waves, which are measured against the twin, are left out there.
"""


def rates(after: dict[str, Any]) -> dict[str, Any]:
    """CA and ASR with their n alone; ASR is missing where there is no attack."""
    return {k: {"value": after[k]["value"], "n": after[k]["n"]} for k in ("ca", "asr") if after.get(k)}


def line_of(row: dict[str, Any]) -> dict[str, Any]:
    """What pages need of an examined member, in the shape of `zoo.cells.collect`."""
    seen = {}
    for name, found in row["seen"]["inverters"].items():
        strength = {"value": found["strength"]["value"]}
        # With the facts, another statistic of the same search can be tried without the models.
        facts = {
            k: found["facts"][k] for k in ("candidates", "score", "cost", "natural", "works") if k in found["facts"]
        }
        seen[name] = {
            "statistic": round(found["statistic"], 4),
            "target": found["target"],
            "strength": strength,
            "facts": facts,
        }
    return {
        "address": address(row["member"]["config"]),
        "versions": versions(),
        **{k: row[k] for k in ("half", "number", "family", "data", "regime")},
        "card": {**{k: row["card"][k] for k in ("trigger", "target", "steps")}, "after": rates(row["card"]["after"])},
        "seen": {"inverters": seen},
    }


def cure_of(done: dict[str, Any]) -> dict[str, Any]:
    """What pages need of a cure."""
    keys = ("shown", "target", "alpha", "satisfied", "cures", "left", "whole", "also", "retention", "agreement")
    facts = {k: done[k] for k in keys}
    return {"version": VERSION, **facts, "after": rates(done["after"])}


def take_over(verdicts: list[Verdict]) -> None:
    """Put the cures of the code as it is in the place of an older version's, once every member has one."""
    old = [v.row for v in verdicts if v.row["cured"] and v.row["cured"]["version"] != VERSION]
    if all(row.get("again", {}).get("version") == VERSION for row in old):
        for row in old:
            row["older"], row["cured"] = row["cured"], row.pop("again")


def both(v: Verdict, key: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """A member's newest cure, which stands under `key`, and the older version's."""
    return v.row[key], v.row["older" if key == "cured" else "cured"]


def again(verdicts: list[Verdict]) -> str:
    """How the cures of the code as it is compare with an older version's, all of them or as far as they go."""
    habits = "drew its images from the whole training split and cured the family that was found alone"
    today = "takes a defender's images and all families that work, and cures once more what is left"
    versions_differ = f"These cures are of an older version, which {habits}. Version {VERSION} {today}"
    cured = [v for v in verdicts if v.row["cured"] or "again" in v.row]
    done, key = [v for v in cured if "again" in v.row], "again"
    if done:
        now = sum(v.row["again"]["version"] == VERSION for v in done)
        others = "the others" if len(done) == len(cured) else "some of the others"
        told = f"So far it has cured {now} of {len(cured)}, planted anew; {others} were cured by the version before it:"
        told = f"{versions_differ}. {told}"
    elif done := [v for v in cured if "older" in v.row]:
        key = "cured"
        told = f'These cures are of version {VERSION}, which {today}. "Before" is an older one, which {habits}:'
    else:
        old = any(v.row["cured"]["version"] != VERSION for v in cured)
        return f"{versions_differ}; it has cured none of them yet.\n\n" * old
    kinds = sorted({both(v, key)[0]["version"] for v in done}, reverse=True)
    groups = {f"version {n}": [v for v in done if both(v, key)[0]["version"] == n] for n in kinds}
    if len(groups) > 1:
        groups["together"] = done
    sums = []
    for name, own in groups.items():
        sums.append(summary(name, [(v, both(v, key)[0]) for v in own]))
        sums.append(summary("the same, before", [(v, then) for v in own if (then := both(v, key)[1])]))
    lines = [told, "", *table_of(SUMMARY, sums), *table_of(EACH, [line_of_cure(v, *both(v, key)) for v in done])]
    return "\n".join(lines) + "\n"


SUMMARY = (
    "cures by", "backdoored", "true ASR: median, 90th percentile, largest", "largest of those told as whole",
    "retention: mean, least", "told as not whole", "clean: n, retention",
)  # fmt: skip
EACH = (
    "member",
    "version",
    "true ASR",
    "retention",
    "cures",
    "left of the pull",
    "whole",
    "before: true ASR, retention",
)


def summary(name: str, cured: list[tuple[Verdict, dict[str, Any]]]) -> list[str]:
    """A row of means and quantiles."""
    sums = cures(cured)
    spread, clean = sums["backdoored"]["asr"], sums["clean"]
    own = [done for v, done in cured if v.truth]
    whole = [done["after"]["asr"]["value"] for done in own if done.get("whole")]
    kept = [done["retention"] for done in own]
    return [
        name,
        str(len(own)),
        "–" if spread is None else ", ".join(percent(spread[k]) for k in ("median", "p90", "largest")),
        percent(max(whole)) if whole else "–",
        f"{percent(mean(kept))}, {percent(min(kept))}" if kept else "–",
        str(sum(done["whole"] is False for done in own)) if own and "whole" in own[0] else "–",
        f"{clean['n']}, {percent(clean['retention'])}" if clean["n"] else "–",
    ]


def line_of_cure(v: Verdict, now: dict[str, Any], then: dict[str, Any] | None) -> list[str]:
    """A member's cures."""

    def asr(done: dict[str, Any]) -> str:
        rate = done["after"].get("asr")
        return rate_text(Rate(round(rate["value"] * rate["n"]), rate["n"]).as_dict()) if rate else "–"

    return [
        f"{v.row['family']}, {v.row['data']}, {v.row['number']}",
        str(now["version"]),
        asr(now),
        percent(now["retention"]),
        str(now.get("cures", 1)),
        f"{now['left']:.2f}",
        "yes" if now["whole"] else "no",
        f"{asr(then)}, {percent(then['retention'])}" if then else "–",
    ]


def percent(share: float) -> str:
    """In per cent, a digit after the point."""
    return f"{100 * share:.1f}"


def without_twins(row: dict[str, Any]) -> dict[str, Any]:
    """A member as its statistics would be had there been no twin; only scores are to be read from it."""
    seen = {}
    for name, found in row["seen"]["inverters"].items():
        facts = found.get("facts", {})
        if name == "wave":
            continue
        if "cost" in facts:
            found = {**found, "facts": {**facts, "score": standing(torch.tensor(facts["cost"])).tolist()}}
        seen[name] = found
    return {**row, "seen": {"inverters": seen}}


def compared(rows: list[dict[str, Any]], halves: list[str], kind: str) -> dict[str, str]:
    """By half, one line on detection without twins."""
    _, judged = judge_rows([without_twins(row) for row in rows], halves, kind, "", FALSE_ALARM_RATE)
    lines = {}
    for half, verdicts in judged.items():
        whole, *_ = detection(verdicts)
        called = rate_text(false_alarms(verdicts, FALSE_ALARM_RATE)["p_value"])
        told = area_text(whole["auroc"])
        lines[half] = f"Without twins: AUROC {told}; clean members with p ≤ {FALSE_ALARM_RATE}: {called}.\n"
    return lines


def table(verdicts: list[Verdict]) -> str:
    """Every member's statistics; bold where the inverter names the true target."""
    names = inverter_names()
    lines = ["| member | " + " | ".join(names) + " | p | backdoored | target |", "|" + " --- |" * (len(names) + 4)]
    for v in sorted(verdicts, key=lambda v: (v.row["family"] != CLEAN, v.row["family"], v.row["number"])):
        card, cells = v.row["card"], []
        for name in names:
            found = v.row["seen"]["inverters"][name]
            mark = "**" if card["target"] and found["target"] == card["target"] else ""
            cells.append(f"{mark}{found['statistic']:.2f}{mark}")
        asr = card["after"].get("asr")
        told = f"{v.row['family']}, {v.row['data']}" + (f", ASR {100 * asr['value']:.0f}" if asr else "")
        said = {True: "yes", False: "no", None: "cannot tell"}[v.judgement.backdoored]
        target = ("right" if v.right_target else "wrong") if card["target"] else "–"
        lines.append(f"| {told} | " + " | ".join(cells) + f" | {v.p_value:.2f} | {said} | {target} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--runs", type=Path)
    args = parser.parse_args()
    plan, base = read_zoo(RECIPE, args.data_root), load("embedded")
    weights = state_hash(base.state())
    kind, identity = architecture(base.state()), settings(plan.images, inverter_names(), weights)
    population = members(plan, weights, classes_of(plan))
    places = {address(m["config"]): i for i, m in enumerate(population)}
    kept = [json.loads(line) for line in LINES.read_text().splitlines()] if LINES.exists() else []
    known = {row["address"]: row for row in kept if row["address"] in places and row.get("versions") == versions()}
    if kept and not any(row["address"] in places for row in kept):
        raise SystemExit(f"no recorded member lies under {args.data_root}: cells know their data by this folder's path")
    found = [row for row in collect(args.runs, plan, population) if row["seen"]] if args.runs else []
    for row in found:
        line = line_of(row)
        known[line["address"]] = {**line, "cured": known.get(line["address"], {}).get("cured")}
    rows = sorted(known.values(), key=lambda row: places[row["address"]])
    null, judged = judge_rows(rows, list(plan.halves), kind, identity, FALSE_ALARM_RATE, Origin(plan.model, weights))
    if args.runs:
        for v in (v for verdicts in judged.values() for v in verdicts):
            member = population[places[v.row["address"]]]
            done = read_result(args.runs, recovery(plan, member, v.judgement)["config"])
            if done is not None:
                v.row["again"] = cure_of(done)
    for verdicts in judged.values():
        take_over(verdicts)
    write_text(LINES, "".join(json.dumps(row) + "\n" for row in rows))
    parts, plain = [HEAD], compared(rows, list(plan.halves), kind)
    for half, verdicts in judged.items():
        cured = [(v, v.row["cured"]) for v in verdicts if v.row["cured"]]
        told = {
            "detection": detection(verdicts),
            "false_alarms": false_alarms(verdicts, FALSE_ALARM_RATE),
            "cures": cures(cured),
        }
        whole = sum(m["names"]["half"] == half for m in population)
        parts += [f"\n## {half.capitalize()} half\n\n{len(verdicts)} of {whole} members examined.\n\n"]
        parts += [as_markdown(told), "\n", again(verdicts), plain[half], "\n", table(verdicts)] if verdicts else []
    write_text(PAGE, "".join(parts))
    if len(null.rows) >= LEAST:
        null.save(SHIPPED / f"{kind}.jsonl")
    print(f"{len(rows)} members, {len(null.rows)} of them in the null")


if __name__ == "__main__":
    main()
