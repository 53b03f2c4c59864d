"""Render docs/lab/bases.md: the grid over foreign bases, with intervals, and what became of the paper's claim on them.

    python recipes/figures/bases.py --runs FOLDER [--runs FOLDER …]

Reads the `results.jsonl` that `bench recipes/bench/bases.yaml` left and runs nothing. Cells are added to
docs/lab/cells/bases.jsonl, from which the page is made, so that those measured elsewhere stay.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pages import interval_of, mean, mean_interval, spread, table

from unbackdoor.base.disk import write_text
from unbackdoor.metrics.rates import Rate

Row = dict[str, Any]
Suspect = tuple[str, str, str, int]
ROOT = Path(__file__).parent.parent.parent
RECORD = ROOT / "docs" / "lab" / "cells" / "bases.jsonl"
PAGE = ROOT / "docs" / "lab" / "bases.md"
MARK = "<!-- made by recipes/figures/bases.py; what stands above is written by hand -->"
DATA = {"cifar10": "CIFAR-10", "gtsrb": "GTSRB", "tiny-imagenet": "Tiny ImageNet", "clothing": "clothing"}
BASES = {
    "lite0": "EfficientNet-Lite0",
    "lite2": "EfficientNet-Lite2",
    "vits14": "ViT-S/14",
    "vit": "ViT from scratch",
    "lite0-160": "EfficientNet-Lite0, 160 px",
    "vits14-112": "ViT-S/14, 112 px",
}
FROM_SCRATCH = ("vit",)  # bases whose image towers began at random
PLANTED = 0.5  # attacks that work on fewer of the pictures are listed and not counted
RATES = ("ca", "asr", "triggered_accuracy")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=Path, action="append", default=[])
    args = parser.parse_args()
    rows = merged(read(RECORD), [row for folder in args.runs for row in read(folder / "results.jsonl")])
    write_text(RECORD, "".join(json.dumps(row) + "\n" for row in rows))
    text = PAGE.read_text(encoding="utf-8").split(MARK)[0] if PAGE.exists() else "# Foreign bases\n\n"
    write_text(PAGE, text + "\n".join([MARK, "", *tables(rows)]))


def read(path: Path) -> list[Row]:
    """Lines of a file of finished cells, shortened to what the page needs."""
    if not path.exists():
        return []
    return [short(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def short(row: Row) -> Row:
    """Counts in place of intervals, which follow from them."""
    if "counts" in row:
        return row
    line: Row = {name: row[name] for name in ("model", "data", "attack", "seed", "kind")}
    line["counts"] = {when: counts(row[when]) for when in ("before", "after") if when in row}
    if row["kind"] == "cure":
        facts = row["facts"]
        line |= {name: row[name] for name in ("defence", "images", "labels", "steps", "seconds")}
        line |= {name: facts[name] for name in ("alpha", "satisfied", "attempts") if name in facts}
        line["lr"] = facts.get("tune", {}).get("lr")
    return line


def counts(rates: Row) -> dict[str, tuple[int, int]]:
    """Hits and images of every rate that was measured."""
    there = {name: rates[name] for name in RATES if rates.get(name) and rates[name]["n"]}
    return {name: (round(rate["value"] * rate["n"]), rate["n"]) for name, rate in there.items()}


def merged(known: list[Row], fresh: list[Row]) -> list[Row]:
    """Recorded cells, each replaced by the same cell where it was measured again, in a fixed order."""
    by_key = {key(row): row for row in [*known, *fresh]}
    return sorted(by_key.values(), key=lambda row: [str(part) for part in key(row)])


def key(row: Row) -> tuple[object, ...]:
    """What tells one cell from another."""
    return (*suspect_of(row), row["kind"], row.get("defence") or "")


def suspect_of(row: Row) -> Suspect:
    """Model, data, attack and seed."""
    return row["model"], row["data"], row["attack"], row["seed"]


def rate(row: Row, name: str, when: str = "after") -> Rate | None:
    """A rate of a cell, None where it was not measured."""
    hits = row["counts"].get(when, {}).get(name)
    return None if hits is None else Rate(*hits)


def percent(row: Row, name: str, when: str = "after") -> float:
    """The same in per cent; 0 where it was not measured."""
    found = rate(row, name, when)
    return 0.0 if found is None else 100 * found.value


def tables(rows: list[Row]) -> list[str]:
    """All of the page below its head."""
    yards = {suspect_of(row): row for row in rows if row["kind"] == "yardstick"}
    cures = [row for row in rows if row["kind"] == "cure"]
    counted = [row for row in cures if percent(row, "asr", "before") >= 100 * PLANTED]
    return [
        *means(counted, yards),
        *by_base(counted, yards),
        *published(counted),
        *suspects(rows, yards),
        *every_cure(cures, yards),
    ]


def retention(row: Row) -> float:
    """Clean accuracy after the cure as a share of the suspect's, in per cent."""
    return 100 * percent(row, "ca") / percent(row, "ca", "before")


def recovered(row: Row, yards: dict[Suspect, Row]) -> float | None:
    """Triggered accuracy as a share of the yardstick's, in per cent."""
    yard = yards.get(suspect_of(row))
    ceiling = 0.0 if yard is None else percent(yard, "triggered_accuracy")
    return 100 * percent(row, "triggered_accuracy") / ceiling if ceiling else None


def shares_back(cures: Sequence[Row], yards: dict[Suspect, Row]) -> list[float]:
    """Recovered shares of the cures that have one. More than all counts as all.

    A trigger may hide the object from a clean model and not from one that was taught to ignore it; a few such shares of
    several hundred per cent would hide all others in a mean.
    """
    return [min(share, 100.0) for row in cures if (share := recovered(row, yards)) is not None]


def names_of(cures: Sequence[Row]) -> list[str]:
    """Defenses, `nothing` first, ours next."""
    order = ["nothing", "lora", "distilled", "tbar"]
    rest = sorted({row["defence"] for row in cures} - set(order))
    return [name for name in [*order, *rest] if any(row["defence"] == name for row in cures)]


def means(cures: list[Row], yards: dict[Suspect, Row]) -> list[str]:
    """Means over suspects, first of all that a defense has cured, then of those that every defense has."""
    defenses = names_of(cures)
    every = {name: {suspect_of(row) for row in cures if row["defence"] == name} for name in defenses}
    common = set.intersection(*every.values()) if every else set()
    lines = ["## Means over suspects", ""]
    lines += ["All that a defense has cured. Recovered: of each at most 100.", "", *_means(cures, yards, defenses)]
    alike = [row for row in cures if suspect_of(row) in common]
    text = f"The {len(common)} suspects that every defense has cured."
    return [*lines, text, "", *_means(alike, yards, defenses)] if alike else lines


def _means(cures: list[Row], yards: dict[Suspect, Row], defenses: list[str]) -> list[str]:
    body = []
    for name in defenses:
        own = [row for row in cures if row["defence"] == name]
        lost = [percent(row, "ca", "before") - percent(row, "ca") for row in own]
        asr, kept = [percent(row, "asr") for row in own], [retention(row) for row in own]
        back = shares_back(own, yards)
        above = [
            percent(row, "asr") - percent(yards[suspect_of(row)], "asr") for row in own if suspect_of(row) in yards
        ]
        body.append(
            (
                name,
                len(own),
                spread(kept),
                f"{max(lost):.1f}",
                spread(asr),
                f"{max(asr):.1f}",
                f"{max(above):+.1f}" if above else "–",
                spread(back),
                f"{min(back):.1f}" if back else "–",
                f"{statistics.fmean(row['images'] for row in own):.0f}",
                f"{statistics.fmean(row['labels'] for row in own):.0f}",
            )
        )
    head = (
        "defense", "suspects", "retention", "largest CA loss", "ASR", "largest ASR", "largest ASR above floor",
        "recovered", "least recovered", "images", "labels",
    )  # fmt: skip
    return table(head, body)


def by_base(cures: list[Row], yards: dict[Suspect, Row]) -> list[str]:
    """Retention, ASR and recovered share of every defense, base by base and data set by data set."""
    lines = ["## By base and data", "", "Mean retention / ASR / recovered share (at most 100) over its suspects.", ""]
    defenses = names_of(cures)
    body = []
    for model in [m for m in BASES if any(row["model"] == m for row in cures)]:
        for data in [d for d in DATA if any((row["model"], row["data"]) == (model, d) for row in cures)]:
            cells = []
            for name in defenses:
                own = [r for r in cures if (r["model"], r["data"], r["defence"]) == (model, data, name)]
                back = shares_back(own, yards)
                cells.append(
                    f"{mean([retention(r) for r in own])} / {mean([percent(r, 'asr') for r in own])} / {mean(back)}"
                    f" ({len(own)})"
                    if own
                    else "–"
                )
            body.append((BASES[model], DATA[data], *cells))
    return [*lines, *table(("base", "data", *defenses), body)]


def published(cures: list[Row]) -> list[str]:
    """The paper's claim beside what its method does here: means with 95% t intervals, and the cells that fall short."""
    own = [row for row in cures if row["defence"] == "tbar"]
    if len(own) < 3:
        return []
    kept = [retention(row) for row in own]
    gone = [100 * (1 - percent(row, "asr") / percent(row, "asr", "before")) for row in own]
    short_of = [row for row, share in zip(own, kept, strict=True) if share < 96]
    where = "; ".join(
        f"{BASES[r['model']]}, {DATA[r['data']]}, {r['attack']}, seed {r['seed']} ({retention(r):.1f})"
        for r in sorted(short_of, key=retention)
    )
    lines = ["## The published method", ""]
    lines += table(
        ("", "paper, mean", "here, mean [95%]", "suspects"),
        [
            ("clean accuracy kept", "96%", mean_interval(kept), len(own)),
            ("backdoor unlearned (share of ASR gone)", "about 99%", mean_interval(gone), len(own)),
        ],
    )
    return [*lines, f"It keeps less than 96% on {len(short_of)} of {len(own)}: {where}.", ""]


def suspects(rows: list[Row], yards: dict[Suspect, Row]) -> list[str]:
    """Every suspect, with the floor of its ASR and the ceiling of its triggered accuracy."""
    body = []
    for row in rows:
        if row["kind"] == "suspect" and row["attack"] != "none":
            yard = yards.get(suspect_of(row))
            limits = (
                ("–", "–")
                if yard is None
                else (interval_of(rate(yard, "asr")), interval_of(rate(yard, "triggered_accuracy")))
            )
            body.append((*named(row), interval_of(rate(row, "ca")), interval_of(rate(row, "asr")), *limits, sizes(row)))
    head = ("base", "data", "attack", "seed", "CA", "ASR", "floor of ASR", "ceiling", "n (CA / ASR)")
    return ["## Suspects", "", *table(head, body)]


def every_cure(cures: list[Row], yards: dict[Suspect, Row]) -> list[str]:
    """Every cell with its intervals."""
    body = []
    for row in cures:
        back = recovered(row, yards)
        alpha = "–" if row.get("alpha") is None else f"{row['alpha']:.3g}{'' if row.get('satisfied', True) else ' †'}"
        rates = (interval_of(rate(row, name)) for name in RATES)
        tail = ("–" if back is None else f"{back:.1f}", f"{retention(row):.1f}", alpha, row.get("attempts") or "–")
        body.append((*named(row), row["defence"], *rates, *tail, sizes(row)))
    head = ("base", "data", "attack", "seed", "defense", "CA", "ASR", "triggered accuracy")
    lines = table((*head, "recovered", "retention", "α", "attempts", "n (CA / ASR)"), body)
    return ["## Every cell", "", "† no α kept both limits on the images for choosing.", "", *lines]


def named(row: Row) -> tuple[object, ...]:
    """Base, data, attack, seed."""
    return BASES[row["model"]], DATA[row["data"]], row["attack"], row["seed"]


def sizes(row: Row) -> str:
    """Images that the rates rest on."""
    return " / ".join(str(found.n) for name in ("ca", "asr") if (found := rate(row, name)) is not None)


if __name__ == "__main__":
    main()
