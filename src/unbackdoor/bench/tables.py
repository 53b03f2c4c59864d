"""From finished cells to tables: mean ± standard deviation over seeds, best in bold; Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from unbackdoor.base.printable import csv_cell, latex, markdown

Json = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of the tables.

    Args:
        name: heading.
        value: row of a finished cure → number, None where it has none.
        form: number → text.
        best: `max`, `min`, or "" where no value is better than another.
    """

    name: str
    value: Callable[[Json], float | None]
    form: str = "{:.1f}"
    best: str = ""


def _rate(when: str, name: str) -> Callable[[Json], float | None]:
    def value(row: Json) -> float | None:
        rate = row[when].get(name)
        return None if rate is None or rate["value"] is None else 100 * rate["value"]

    return value


def _rebound(row: Json) -> float | None:
    trace = row.get("rebound")
    return 100 * trace[-1]["asr"]["value"] if trace else None


def _retention(row: Json) -> float | None:
    return None if row["retention"] is None else 100 * row["retention"]


def _recovered(row: Json) -> float | None:
    """Triggered accuracy, as a share of what the same fine-tuning without poison reaches on triggered images."""
    had, there = row["after"].get("triggered_accuracy"), row.get("yardstick", {}).get("triggered_accuracy")
    if not had or not there or had["value"] is None or not there["value"]:
        return None
    return 100 * float(had["value"]) / float(there["value"])


COLUMNS = (
    Column("CA before", _rate("before", "ca")),
    Column("CA", _rate("after", "ca"), best="max"),
    Column("ASR before", _rate("before", "asr")),
    Column("ASR", _rate("after", "asr"), best="min"),
    Column("triggered acc.", _rate("after", "triggered_accuracy"), best="max"),
    Column("recovered", _recovered, best="max"),
    Column("retention", _retention, best="max"),
    Column("ASR on rebound", _rebound, best="min"),
    Column("images", lambda r: float(r["images"]), "{:.0f}"),
    Column("labels", lambda r: float(r["labels"]), "{:.0f}"),
    Column("steps", lambda r: float(r["steps"]), "{:.0f}"),
    Column("seconds", lambda r: float(r["seconds"]), "{:.0f}"),
    Column("MiB", lambda r: r["peak_memory_mib"], "{:.0f}"),
)


@dataclass(frozen=True)
class Cell:
    """Mean and standard deviation over seeds; the deviation is None with one seed."""

    mean: float | None
    deviation: float | None = None
    best: bool = False

    def text(self, form: str, plus_minus: str = " ± ") -> str:
        """`12.3 ± 0.4`."""
        if self.mean is None:
            return "–"
        tail = "" if self.deviation is None else plus_minus + form.format(self.deviation)
        return form.format(self.mean) + tail


def spread(values: Iterable[float | None]) -> Cell:
    """Mean and sample standard deviation of the values that are there."""
    numbers = [v for v in values if v is not None]
    if not numbers:
        return Cell(None)
    return Cell(statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else None)


@dataclass(frozen=True)
class Line:
    """One line of a table: what it is about, how many seeds it rests on, and its cells by column."""

    labels: tuple[str, ...]
    seeds: int
    cells: tuple[Cell, ...]


def _mark(lines: list[Line], idle: Callable[[Line], bool]) -> list[Line]:
    """The best mean of each column in bold, among the lines that do something."""
    best: list[float | None] = []
    for i, column in enumerate(COLUMNS):
        means = [m for line in lines if not idle(line) and (m := line.cells[i].mean) is not None]
        # As shown, so that two equal-looking numbers are both bold.
        pick = {"max": max, "min": min}.get(column.best)
        best.append(None if pick is None or not means else pick(means))

    def bold(i: int, cell: Cell) -> bool:
        form = COLUMNS[i].form
        return best[i] is not None and cell.mean is not None and form.format(cell.mean) == form.format(best[i])

    return [
        line if idle(line) else Line(line.labels, line.seeds, tuple(
            Cell(c.mean, c.deviation, bold(i, c)) for i, c in enumerate(line.cells)
        ))
        for line in lines
    ]  # fmt: skip


def _idle(line: Line) -> bool:
    return line.labels[-1] == "nothing"


def per_attack(rows: Sequence[Json]) -> list[list[Line]]:
    """One block per model × data × attack, a line per defense, over seeds."""
    blocks: dict[tuple[str, ...], dict[str, list[Json]]] = {}
    for row in rows:
        if row["kind"] == "cure":
            block = blocks.setdefault((row["model"], row["data"], row["attack"]), {})
            block.setdefault(row["defence"], []).append(row)
    return [
        _mark(
            [
                Line((*names, defense), len(own), tuple(spread(c.value(r) for r in own) for c in COLUMNS))
                for defense, own in block.items()
            ],
            _idle,
        )
        for names, block in blocks.items()
    ]


def per_defense(rows: Sequence[Json]) -> list[Line]:
    """One line per defense: means over all its cells of a seed, then mean and deviation over seeds.

    A defense that lacks cells which another has would be compared on other ground, so that only model × data × attack ×
    seed where every defense has finished count.
    """
    cures = [r for r in rows if r["kind"] == "cure"]
    defenses = list(dict.fromkeys(r["defence"] for r in cures))
    place: dict[tuple[Any, ...], set[str]] = {}
    for r in cures:
        place.setdefault((r["model"], r["data"], r["attack"], r["seed"]), set()).add(r["defence"])
    whole = {key for key, names in place.items() if len(names) == len(defenses)}
    shared = [r for r in cures if (r["model"], r["data"], r["attack"], r["seed"]) in whole]
    lines = []
    for defense in defenses:
        seeds: dict[int, list[Json]] = {}
        for r in shared:
            if r["defence"] == defense:
                seeds.setdefault(r["seed"], []).append(r)
        cells = tuple(spread(spread(c.value(r) for r in own).mean for own in seeds.values()) for c in COLUMNS)
        if seeds:
            lines.append(Line((f"{len(whole)} cells", defense), len(seeds), cells))
    return _mark(lines, _idle)


def attacks(rows: Sequence[Json]) -> list[tuple[str, str, str, int, Cell, Cell, Cell, Cell]]:
    """Per model × data × attack: seeds, CA, CA without poison, their difference seed by seed, ASR."""
    suspects: dict[tuple[str, str, str], list[Json]] = {}
    for row in rows:
        if row["kind"] == "suspect":
            suspects.setdefault((row["model"], row["data"], row["attack"]), []).append(row)
    lines = []
    for (model, data, attack), own in suspects.items():
        clean = {r["seed"]: _rate("after", "ca")(r) for r in suspects.get((model, data, "none"), [])}
        if attack == "none":
            continue
        ca = {r["seed"]: _rate("after", "ca")(r) for r in own}
        gap = [a - b for s in ca if (a := ca[s]) is not None and (b := clean.get(s)) is not None]
        asr = spread(_rate("after", "asr")(r) for r in own)
        lines.append((model, data, attack, len(own), spread(ca.values()), spread(clean.values()), spread(gap), asr))
    return lines


_PLACES = ("model", "data", "attack", "defence", "seeds")


def as_markdown(rows: Sequence[Json]) -> str:
    """All tables as Markdown."""
    heads = [c.name for c in COLUMNS]

    def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
        lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
        return "\n".join(lines + ["| " + " | ".join(line) + " |" for line in body])

    def texts_of(line: Line) -> list[str]:
        texts = [cell.text(c.form) for c, cell in zip(COLUMNS, line.cells, strict=True)]
        return [f"**{t}**" if cell.best else t for t, cell in zip(texts, line.cells, strict=True)]

    out = []
    planted = attacks(rows)
    if planted:
        body = [
            [*map(markdown, (model, data, attack)), str(n), *(c.text("{:.1f}") for c in cells)]
            for model, data, attack, n, *cells in planted
        ]
        head = ["model", "data", "attack", "seeds", "CA", "CA without poison", "difference", "ASR"]
        out.append("## Attacks\n\n" + table(head, body))
    whole = per_defense(rows)
    if whole:
        body = [[*map(markdown, line.labels[:2]), str(line.seeds), *texts_of(line)] for line in whole]
        out.append("## Defences, over all\n\n" + table(["over", "defence", "seeds", *heads], body))
    blocks = per_attack(rows)
    if blocks:
        body = [[*map(markdown, line.labels), str(line.seeds), *texts_of(line)] for block in blocks for line in block]
        out.append("## Defences, attack by attack\n\n" + table([*_PLACES, *heads], body))
    return "\n\n".join(out) + "\n"


def as_csv(rows: Sequence[Json]) -> str:
    """The attack-by-attack table, mean and deviation in columns of their own."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*_PLACES, *(f"{c.name}{tail}" for c in COLUMNS for tail in ("", " sd"))])
    for block in per_attack(rows):
        for line in block:
            numbers = [x for cell in line.cells for x in (cell.mean, cell.deviation)]
            writer.writerow(
                [*map(csv_cell, line.labels), line.seeds, *("" if x is None else f"{x:.4f}" for x in numbers)]
            )
    return file.getvalue()


def as_latex(rows: Sequence[Json]) -> str:
    """The attack-by-attack table for booktabs: rates and cost, one rule between attacks."""
    kept = [i for i, c in enumerate(COLUMNS) if c.name not in ("labels", "steps", "MiB")]

    head = " & ".join([*map(latex, _PLACES[1:]), *(latex(COLUMNS[i].name) for i in kept)])
    out = [f"\\begin{{tabular}}{{lllr{'r' * len(kept)}}}", "\\toprule", head + r" \\"]
    for block in per_attack(rows):
        out.append("\\midrule")
        for line in block:
            texts = []
            for i in kept:
                text = line.cells[i].text(COLUMNS[i].form, r" \pm ").replace("–", "-")
                texts.append(f"$\\mathbf{{{text}}}$" if line.cells[i].best else f"${text}$")
            out.append(" & ".join([*map(latex, line.labels[1:]), str(line.seeds), *texts]) + r" \\")
    return "\n".join([*out, "\\bottomrule", "\\end{tabular}"]) + "\n"
