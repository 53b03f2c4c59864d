"""Render docs/lab/grid.md: every finished cell of the committed grids, with intervals, and means over cells.

    python recipes/figures/grid.py --data-root PATH --runs FOLDER

Reads what `bench` left in FOLDER and runs nothing, so that it can be repeated while a grid goes on. What it finds is
added to docs/lab/cells/*.csv, from which the page is made: cells measured elsewhere stay (`record.py`).
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import record
from pages import spread, table

from unbackdoor.base.disk import write_text
from unbackdoor.bench.grid import plan
from unbackdoor.bench.recipe import Grid, read_recipe
from unbackdoor.bench.store import read_result
from unbackdoor.clip.load import load
from unbackdoor.weights.files import state_hash

Row = dict[str, Any]
ROOT = Path(__file__).parent.parent.parent
RECIPES = ROOT / "recipes" / "bench"
DEFAULT = "lora"  # what `unlearn` does unless it is told otherwise
NAMES = {"cifar10": "CIFAR-10", "gtsrb": "GTSRB", "tiny-imagenet": "Tiny ImageNet"}

HEAD = """\
# The grids, cell by cell

Made by `python recipes/figures/grid.py --data-root PATH --runs FOLDER` from what `bench` left there and from
[the cells of earlier runs](cells); what it means stands in [results](results.md). Rates in per cent with 95%
Wilson intervals; retention is CA after the cure divided by CA before it; rebound is ASR after 50 steps of clean
fine-tuning, on at most 400 images. The cells of seed 0, but for the image–text regime, were read back from an earlier
print of this page and may be off by 0.1 points. Seconds of different seeds come from different machines, those of seed
1 beside other work; means of seconds are those of a table's first seed alone. `distilled` was run later: its suspects
of seed 0 are the recorded ones planted again, those of seed 1 come from another type of machine than the rivals' (CA up
to 2.3 points apart); the suspects' table shows the new ones.
"""


def rate(found: Row) -> str:
    low, high = found["interval"]
    return f"{100 * found['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def suspects(rows: list[Row]) -> list[str]:
    """CA and ASR of every suspect, beside the same training without poison."""
    clean = {(r["data"], r["seed"]): r["after"]["ca"] for r in rows if r["attack"] == "none"}
    body = []
    for r in rows:
        if r["kind"] == "suspect" and r["attack"] != "none":
            ca, asr, own = r["after"]["ca"], r["after"]["asr"], clean.get((r["data"], r["seed"]))
            gap = "–" if own is None else f"{100 * (ca['value'] - own['value']):+.1f}"
            without = "–" if own is None else rate(own)
            body.append((NAMES[r["data"]], r["attack"], r["seed"], rate(ca), without, gap, rate(asr), counts(r)))
    head = ("data", "attack", "seed", "CA", "CA without poison", "difference", "ASR", "n (CA / ASR)")
    return table(head, body)


def counts(row: Row) -> str:
    return f"{row['after']['ca']['n']} / {row['after']['asr']['n']}"


def finished(rows: list[Row]) -> tuple[list[str], dict[tuple[str, str, int], dict[str, Row]]]:
    """The defences, and their cures by suspect, of those suspects that every defence has finished."""
    names = list(dict.fromkeys(r["defence"] for r in rows if r["kind"] == "cure"))
    cells: dict[tuple[str, str, int], dict[str, Row]] = {}
    for r in rows:
        if r["kind"] == "cure":
            cells.setdefault((r["data"], r["attack"], r["seed"]), {})[r["defence"]] = r
    return names, {k: v for k, v in cells.items() if len(v) == len(names)}


def means(rows: list[Row]) -> list[str]:
    """Mean ± standard deviation over suspects, of those on which every defence of the recipe has finished."""
    names, full = finished(rows)
    body = []
    sets: list[str | None] = list(dict.fromkeys(k[0] for k in full))
    for data in sets if len(sets) < 2 else [*sets, None]:
        chosen = [v for k, v in full.items() if data in (None, k[0])]
        for name in names:
            own = [c[name] for c in chosen]
            lost = [100 * (r["before"]["ca"]["value"] - r["after"]["ca"]["value"]) for r in own]
            asr = [100 * r["after"]["asr"]["value"] for r in own]
            again = [100 * r["rebound"][-1]["asr"]["value"] for r in own if r.get("rebound")]
            body.append(
                (
                    f"**all {len(own)}**" if data is None else f"{NAMES[data]}, {len(own)}",
                    name,
                    spread([100 * r["after"]["ca"]["value"] for r in own]),
                    spread(asr),
                    f"{max(asr):.1f}",
                    spread([100 * r["after"]["triggered_accuracy"]["value"] for r in own]),
                    spread([100 * r["retention"] for r in own]),
                    f"{max(lost):.1f}",
                    spread(again) if again else "–",
                    f"{statistics.fmean(r['images'] for r in own):.0f}",
                    f"{statistics.fmean(r['labels'] for r in own):.0f}",
                    first_seconds(own),
                )
            )
    head = ("suspects", "defence", "CA", "ASR", "largest ASR", "triggered accuracy", "retention", "largest CA loss")
    return table((*head, "ASR on rebound", "images", "labels", "seconds"), body)


def first_seconds(rows: list[Row]) -> str:
    """Mean seconds of the first seed alone: later ones shared their machine with other work."""
    first = min(r["seed"] for r in rows)
    return f"{statistics.fmean(r['seconds'] for r in rows if r['seed'] == first):.0f}"


def later_seeds(rows: list[Row]) -> list[str]:
    """Means of each seed after the first by itself."""
    lines = []
    for seed in sorted({r["seed"] for r in rows})[1:]:
        lines += [f"### Means of seed {seed}", "", *means([r for r in rows if r["seed"] == seed])]
    return lines


def over_seeds(rows: list[Row]) -> list[str]:
    """ASR and retention of every defence, mean ± sample standard deviation over the seeds of an attack."""
    names, full = finished(rows)
    body = []
    for data, attack in dict.fromkeys((d, a) for d, a, _ in full):
        seeds = [cells for (d, a, _), cells in full.items() if (d, a) == (data, attack)]
        if len(seeds) > 1:
            told = []
            for name in names:
                asr = spread([100 * cells[name]["after"]["asr"]["value"] for cells in seeds])
                told.append(f"{asr}, {spread([100 * cells[name]['retention'] for cells in seeds])}")
            body.append((NAMES[data], attack, len(seeds), *told))
    return table(("data", "attack", "seeds", *names), body)


def head_to_head(rows: list[Row]) -> list[str]:
    """On how many suspects the default cure does better than each other defence."""
    names, full = finished(rows)
    body = []
    for name in names:
        if name in (DEFAULT, "nothing"):
            continue
        pairs = [(c[DEFAULT], c[name]) for c in full.values()]
        lower, more = ("asr", "rebound"), ("ca", "triggered_accuracy")
        found = {k: sum(value(a, k) < value(b, k) for a, b in pairs) for k in lower}
        found |= {k: sum(value(a, k) > value(b, k) for a, b in pairs) for k in more}
        body.append((name, *(f"{found[k]} of {len(pairs)}" for k in ("asr", "ca", "triggered_accuracy", "rebound"))))
    return table((f"{DEFAULT} against", "lower ASR", "higher CA", "higher triggered accuracy", "lower rebound"), body)


def against_published(rows: list[Row]) -> str:
    """How much of the published vector's loss of CA the default cure avoids, with exact sign tests over suspects."""
    _, full = finished(rows)
    pairs = [
        tuple(100 * (c[n]["before"]["ca"]["value"] - c[n]["after"]["ca"]["value"]) for n in (DEFAULT, "tbar"))
        for c in full.values()
    ]
    ours, published = (statistics.fmean(p[i] for p in pairs) for i in (0, 1))
    half = sum(a < b / 2 for a, b in pairs)
    asr = [statistics.fmean(100 * c[n]["after"]["asr"]["value"] for c in full.values()) for n in (DEFAULT, "tbar")]
    return (
        f"Mean loss of CA over {len(pairs)} suspects: {DEFAULT} {ours:.2f} points, the published vector "
        f"{published:.2f}, at a mean ASR of {asr[0]:.2f} and {asr[1]:.2f}%. {DEFAULT} loses less than half of what the "
        f"published vector loses on {half} of {len(pairs)} (sign test: p = {sign_test(half, len(pairs)):.2g})."
    )


def sign_test(wins: int, n: int) -> float:
    """Chance of at least so many wins of n by tossing a coin."""
    return sum(math.comb(n, k) for k in range(wins, n + 1)) / 2**n


def value(row: Row, key: str) -> float:
    found: float = row["rebound"][-1]["asr"]["value"] if key == "rebound" else row["after"][key]["value"]
    return found


def every_cure(rows: list[Row]) -> list[str]:
    body = []
    for r in rows:
        if r["kind"] == "cure":
            after, again = r["after"], r.get("rebound")
            body.append(
                (
                    NAMES[r["data"]],
                    r["attack"],
                    r["seed"],
                    r["defence"],
                    f"{100 * r['before']['ca']['value']:.1f}",
                    rate(after["ca"]),
                    rate(after["asr"]),
                    rate(after["triggered_accuracy"]),
                    f"{100 * r['retention']:.1f}",
                    rate(again[-1]["asr"]) if again else "–",
                    "–" if r["facts"].get("alpha") is None else f"{r['facts']['alpha']:.3g}",
                    f"{r['seconds']:.0f}",
                )
            )
    head = ("data", "attack", "seed", "defence", "CA before", "CA", "ASR", "triggered accuracy", "retention")
    return table((*head, "ASR on rebound", "α", "seconds"), body)


@dataclass(frozen=True)
class Found:
    """A recipe's cells: those measured, here or before, and those not."""

    rows: list[Row]
    missing: list[Row]


def gather(name: str, root: Path, runs: Path | None, hashes: dict[str, str]) -> Found:
    """A recipe's cells in its order, from the run folder or else from the record; the record learns of the new ones."""
    grid = read_recipe(RECIPES / f"{name}.yaml", root)
    path = ROOT / "docs" / "lab" / "cells" / f"{name}.csv"
    known = record.read(path)
    rows, missing, fresh = [], [], 0
    for suspect, cures in plan(grid, hashes):
        for cell in (suspect, *cures):
            row = {**cell["names"], "kind": cell["config"]["kind"]}
            result = None if runs is None else read_result(runs, cell["config"])
            if result is not None:
                rows.append(with_rate({**row, **result}, grid))
                fresh += 1
            elif record.key(row) in known:
                rows.append(known[record.key(row)])
            else:
                missing.append(row)
    if fresh:
        record.write(path, rows)
    return Found(rows, missing)


def with_rate(row: Row, grid: Grid) -> Row:
    """A cure with the learning rate that its recipe gave it, where it did."""
    if row["kind"] != "cure":
        return row
    name = row["defence"]
    settings = {**grid.defenses[name], **grid.data[row["data"]].defenses.get(name, {})}
    return {**row, "lr": settings.get("lr")}


def section(title: str, said: str, name: str, found: Found) -> list[str]:
    total = len(found.rows) + len(found.missing)
    lines = [f"## {title}", "", f"`recipes/bench/{name}.yaml`: {len(found.rows)} of {total} cells finished. {said}", ""]
    lost: dict[str, set[str]] = {}
    for r in found.missing:
        lost.setdefault(f"{NAMES[r['data']]} seed {r['seed']}", set()).add(r["attack"])
    whole = {r["attack"] for r in found.rows} | {a for names in lost.values() for a in names}
    if lost:
        told = (f"{where} ({'all' if names == whole else ', '.join(sorted(names))})" for where, names in lost.items())
        lines += ["Not run, or not with every defence: " + "; ".join(told) + ".", ""]
    return lines


def reader(said: str) -> Callable[[str], Found]:
    """The command line of a page: a recipe's name → its cells."""
    parser = argparse.ArgumentParser(description=said.split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--recipe", action="append", help="the recipes that FOLDER was made by; all by default")
    args = parser.parse_args()
    hashes = {"embedded": state_hash(load("embedded", device="cpu").state())}
    # Recipes share suspects, and one planted again for another would replace what a recipe's cures were measured on.
    taken = args.recipe
    return lambda name: gather(name, args.data_root, args.runs if not taken or name in taken else None, hashes)


def main() -> None:
    assert __doc__ is not None
    read = reader(__doc__)
    core, attacks, defenses = read("core"), read("attacks"), read("defenses")
    sweeps, poison, pairs, small = read("sweeps"), read("poison-rates"), read("pairs"), read("small")
    lines = HEAD.split("\n")
    lines += section("Core grid", "Three data sets, six attacks, TBAR and four rivals.", "core", core)
    lines += ["### Attacks", "", *suspects(core.rows)]
    lines += ["### Means", "", "Mean ± sample standard deviation over suspects that every defence has finished.", ""]
    lines += [
        *means(core.rows),
        *later_seeds(core.rows),
        "### Over seeds",
        "",
        "ASR after the cure, then retention, of attacks with more than one seed.",
        "",
        *over_seeds(core.rows),
        "### Suspect by suspect",
        "",
        *head_to_head(core.rows),
        against_published(core.rows),
        "",
        "### Every cure",
        "",
        *every_cure(core.rows),
    ]
    lines += section("Few images", "The core grid's suspects, cured on 2% of its rivals' images.", "small", small)
    lines += [*means(small.rows), *every_cure(small.rows)]
    lines += section("Other attacks", "CIFAR-10.", "attacks", attacks)
    lines += [*suspects(attacks.rows), *every_cure(attacks.rows)]
    lines += section("Every defence", "CIFAR-10, two attacks.", "defenses", defenses)
    lines += [*means(defenses.rows), *every_cure(defenses.rows)]
    lines += section("Image–text regime", "Caption pairs of Tiny ImageNet, both towers.", "pairs", pairs)
    lines += [*suspects(pairs.rows), *means(pairs.rows), *every_cure(pairs.rows)]
    lines += section("Forget-set size and learning rate", "CIFAR-10, BadNets.", "sweeps", sweeps)
    lines += every_cure(sweeps.rows)
    lines += section("Poison rate", "CIFAR-10, BadNets.", "poison-rates", poison)
    lines += [*suspects(poison.rows), *every_cure(poison.rows)]
    write_text(ROOT / "docs" / "lab" / "grid.md", "\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
