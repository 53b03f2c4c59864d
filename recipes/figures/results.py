"""Fill the tables of docs/results.md from the cells on record; what stands around them is written by hand.

    python recipes/figures/results.py

Runs nothing. A block begins with `<!-- NAME: made by recipes/figures/results.py -->` and ends with `<!-- end -->`.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bases
import record
from pages import mean_interval, spread, table

from unbackdoor.base.disk import write_text

Row = dict[str, Any]
ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "results.md"
CELLS = ROOT / "docs" / "lab" / "cells"
BLOCK = re.compile(r"(<!-- (\w+): made by recipes/figures/results\.py -->\n).*?(<!-- end -->)", re.DOTALL)
# Defenses of the grid over foreign bases: in this order, by the names that the page gives them.
FOREIGN = {
    "lora": "**lora**",
    "distilled": "distilled",
    "tbar": "tbar",
    "ascent": "ascent",
    "cleanclip-1e-3": "CleanCLIP at 1e-3",
    "par-1e-3": "PAR at 1e-3",
}
EMBEDDED = ("nothing", "lora", "distilled", "anchored", "tbar", "cleanclip", "par", "contrastive", "ascent")
DATA = {**bases.DATA, "cifar10-1e-4": "CIFAR-10, planted at 1e-4 in place of 1e-3"}  # recipes/bench/planting-rates.yaml


def main() -> None:
    write_text(PAGE, filled(PAGE.read_text(encoding="utf-8")))


def filled(text: str) -> str:
    """The page with every block made anew."""
    blocks = {"foreign": foreign, "suspects": suspects, "published": published, "starts": starts, "embedded": embedded}
    return BLOCK.sub(lambda block: block[1] + "\n" + "\n".join(blocks[block[2]]()) + "\n\n" + block[3], text)


def cured() -> tuple[list[Row], dict[bases.Suspect, Row]]:
    """Cures of foreign suspects whose attack works, of the page's defenses; and the yardsticks."""
    rows = bases.read(bases.RECORD)
    yards = {bases.suspect_of(row): row for row in rows if row["kind"] == "yardstick"}
    cures = [row for row in rows if row["kind"] == "cure" and row["defence"] in FOREIGN]
    return [row for row in cures if bases.percent(row, "asr", "before") >= 100 * bases.PLANTED], yards


def foreign() -> list[str]:
    """What each defense comes to on foreign bases."""
    cures, yards = cured()
    body = []
    for name, title in FOREIGN.items():
        own = [row for row in cures if row["defence"] == name]
        lost = [bases.percent(row, "ca", "before") - bases.percent(row, "ca") for row in own]
        asr = [bases.percent(row, "asr") for row in own]
        back = bases.shares_back(own, yards)
        used = (f"{statistics.fmean(row[what] for row in own):,.0f}" for what in ("images", "labels"))
        kept = spread([bases.retention(row) for row in own])
        worst = (f"{max(lost):.1f}", spread(asr), f"{max(asr):.1f}", spread(back), f"{min(back):.1f}")
        body.append((title, len(own), kept, *worst, *used))
    head = ("defense", "suspects", "retention", "largest CA loss", "ASR", "largest ASR", "recovered", "least")
    return table((*head, "images", "labels"), body)[:-1]


def suspects() -> list[str]:
    """Every foreign suspect: by the default cure and by the published one."""
    cures, yards = cured()
    body = []
    for suspect in dict.fromkeys(bases.suspect_of(row) for row in cures):
        by_name = {row["defence"]: row for row in cures if bases.suspect_of(row) == suspect}
        cells = []
        for name in ("lora", "tbar"):
            row = by_name.get(name)
            if row is None:
                cells.append("–")
                continue
            back = bases.recovered(row, yards)
            share = "–" if back is None else f"{back:.0f}"
            cells.append(f"{bases.retention(row):.1f} / {bases.percent(row, 'asr'):.1f} / {share}")
        model, data, attack, seed = suspect
        ca = bases.percent(next(iter(by_name.values())), "ca", "before")
        body.append((bases.BASES[model], bases.DATA[data], attack, seed, f"{ca:.1f}", *cells))
    return table(("base", "data", "attack", "seed", "CA before", "lora", "tbar"), body)[:-1]


def published() -> list[str]:
    """The paper's two claims beside the published method's figures on foreign bases."""
    cures = [row for row in cured()[0] if row["defence"] == "tbar"]
    kept = [bases.retention(row) for row in cures]
    gone = [100 * (1 - bases.percent(row, "asr") / bases.percent(row, "asr", "before")) for row in cures]
    body = [
        ("CA kept", "96", mean_interval(kept), f"{min(kept):.1f} to {max(kept):.1f}", sum(v >= 96 for v in kept)),
        (
            "ASR gone",
            "about 99",
            mean_interval(gone),
            f"{min(gone):.1f} to {max(gone):.1f}",
            sum(v >= 99 for v in gone),
        ),
    ]
    head = ("share, in per cent", "paper, mean", f"here, mean of {len(cures)} [95%]", "range", "suspects that reach it")
    return table(head, body)[:-1]


def starts() -> list[str]:
    """How sure suspects are of the target, beside what `tbar` keeps of their CA; and the rank correlation.

    A suspect that is not of the grid over bases brings what was kept of it along (`kept`).
    """
    lines = (CELLS / "starts.jsonl").read_text(encoding="utf-8").splitlines()
    rows = sorted((json.loads(line) for line in lines), key=lambda row: row["loss"])
    body, pairs, trained = [], [], []
    for row in rows:
        kept = row.get("kept") or tbar_kept(row)
        if kept is not None:
            pairs.append((row["loss"], kept))
            if row["model"] not in bases.FROM_SCRATCH:
                trained.append((row["loss"], kept))
            name = f"{bases.BASES[row['model']]}, {DATA[row['data']]}, {row['attack']}"
            body.append((name, f"{row['loss']:.0e}", f"{row['margin']:.1f}", f"{row['gradient']:.0e}", f"{kept:.1f}"))
    head = ("suspect", "cross-entropy to the target", "margin", "gradient / weights", "CA kept by `tbar`")
    rho = f"Spearman's ρ between cross-entropy and CA kept: {spearman(pairs):.2f} over these {len(pairs)}, "
    rho += f"{spearman(trained):.2f} over the {len(trained)} whose image towers were pre-trained."
    return [*table(head, body), rho]


def tbar_kept(row: Row) -> float | None:
    """Retention of the published method on the suspect of a row of starts.jsonl."""
    for cure in cured()[0]:
        if cure["defence"] == "tbar" and bases.suspect_of(cure) == bases.suspect_of(row):
            return bases.retention(cure)
    return None


def spearman(pairs: Sequence[tuple[float, float]]) -> float:
    """Rank correlation of pairs."""
    from scipy.stats import spearmanr

    return float(spearmanr(*zip(*pairs, strict=True)).statistic)


def embedded() -> list[str]:
    """Means over the suspects of the core grid that each defense has cured."""
    cures = [row for row in record.read(CELLS / "core.csv").values() if row["kind"] == "cure"]
    body = []
    for name in EMBEDDED:
        own = [row for row in cures if row["defence"] == name]
        lost = [100 * (row["before"]["ca"]["value"] - row["after"]["ca"]["value"]) for row in own]
        asr, back = ([100 * row["after"][what]["value"] for row in own] for what in ("asr", "triggered_accuracy"))
        kept = spread([100 * row["retention"] for row in own])
        title = f"**{name}**" if name == "lora" else name
        body.append((title, len(own), kept, f"{max(lost):.1f}", spread(asr), f"{max(asr):.1f}", spread(back)))
    head = ("defense", "suspects", "retention", "largest CA loss", "ASR", "largest ASR", "triggered accuracy")
    return table(head, body)[:-1]


if __name__ == "__main__":
    main()
