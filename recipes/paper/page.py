"""`paper.md`: what the paper says of itself beside the same figures of our runs, and every table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unbackdoor.base.disk import write_text
from unbackdoor.base.errors import InputError
from unbackdoor.base.printable import markdown
from unbackdoor.base.untrusted import read_json_lines
from unbackdoor.bench.tables import as_markdown

Json = dict[str, Any]
PARTS = ("single-task", "image-text")
TITLES = {"single-task": "Known trigger, one data set", "image-text": "Known trigger, image–caption pairs"}
OURS = ("tbar", "lora")
FINE_TUNING = ("contrastive", "cleanclip")
PLANTED = 0.5  # least ASR of a suspect that counts as backdoored; of a failed attack nothing can be unlearned
NOTE = """The paper (arXiv 2510.14845) gives no figure of a single row that could be read here, so that its means are
all there is to compare with; its "about 99%" and "< 2%" come from a summary by others. `tbar` is its method, `lora` is
this project's. Retained: CA after the cure over CA before. Unlearned: the share of ASR that is gone. Means over all
suspects whose ASR is at least 50% before the cure."""


def read_rows(path: Path) -> list[Json]:
    """Lines of a `results.jsonl`, none where there is none.

    Raises:
        InputError: a line is damaged.
    """
    if not path.exists():
        return []
    rows = list(read_json_lines(path))
    if not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: a line is no object; remove the file and run again")
    return rows


def write_page(out: Path, reference: str) -> Path:
    """Write `paper.md` from whatever is finished in `out`."""
    parts = {part: read_rows(out / part / "results.jsonl") for part in PARTS}
    blind = read_rows(out / "unknown" / "results.jsonl")
    text = [f"# The paper's setting on {markdown(reference)}", NOTE, "## Its claims beside ours", claims(parts, blind)]
    for part, rows in parts.items():
        if rows:
            text += [f"# {TITLES[part]}", as_markdown(rows).strip()]
    if blind:
        text += ["# Unknown trigger: DECREE", unknown_table(blind)]
    path = out / "paper.md"
    write_text(path, "\n\n".join(text) + "\n")
    return path


def claims(parts: dict[str, list[Json]], blind: list[Json]) -> str:
    """One line a claim: what the paper says, and the same of our runs, method by method."""
    cures = {name: [r for rows in parts.values() for r in planted(rows) if r["defence"] == name] for name in OURS}
    share = {name: _data_share(parts, name) for name in OURS}
    lines = [
        ["clean accuracy retained, mean", "96%", *(_mean(cures[name], lambda r: r["retention"]) for name in OURS)],
        ["backdoor unlearned, mean", "about 99%", *(_mean(cures[name], unlearned) for name in OURS)],
        ["images, of what fine-tuning defenses get", "< 2%", *(share[name] for name in OURS)],
    ]
    known = [r for r in blind if r["true_target"] is not None and (_value(r, "before", "asr") or 0) >= PLANTED]
    if known:
        own = {"tbar": "tbar", "lora": "distilled"}  # our method where the attack is unknown
        of = {name: [r for r in known if r["method"] == own[name]] for name in OURS}
        lines += [
            ["unknown trigger: retained, mean", "no figure", *(_mean(of[name], _retention) for name in OURS)],
            ["unknown trigger: unlearned, mean", "no figure", *(_mean(of[name], unlearned) for name in OURS)],
        ]
    return _table(["", "paper", "ours: tbar", "ours: lora (unknown trigger: distilled)"], lines)


def planted(rows: Sequence[Json]) -> list[Json]:
    """Cures of suspects whose attack works."""
    return [r for r in rows if r["kind"] == "cure" and (_value(r, "before", "asr") or 0) >= PLANTED]


def unlearned(row: Json) -> float | None:
    """Share of ASR that is gone; less than none is gone where it has risen."""
    before, after = _value(row, "before", "asr"), _value(row, "after", "asr")
    return None if not before or after is None else 1 - after / before


def unknown_table(rows: Sequence[Json]) -> str:
    """One line a suspect and method."""
    lines = [
        [
            row["data"], row["attack"], str(row["seed"]), row["method"], f"{row['mask']:.4f}", row["target"],
            row["true_target"] or "–", *(_percent(_value(row, when, name)) for name in ("asr", "ca")
                                         for when in ("before", "after")),
            _percent(_retention(row)),
        ]
        for row in rows
    ]  # fmt: skip
    head = ["data", "attack", "seed", "method", "mask", "its class", "target", "ASR before", "ASR", "CA before", "CA"]
    return (
        "The mask is a share of the picture, DECREE's PL1, which its paper calls a backdoor below 0.1. ASR is the true "
        "trigger's; `none` is the same fine-tuning without poison.\n\n" + _table([*head, "retention"], lines)
    )


def _data_share(parts: dict[str, list[Json]], name: str) -> str:
    """Images of a method over those of the fine-tuning defenses beside it, part by part."""
    shares = []
    for part, rows in parts.items():
        own = [r["images"] for r in rows if r.get("defence") == name]
        rivals = [r["images"] for r in rows if r.get("defence") in FINE_TUNING]
        if own and rivals:
            shares.append(f"{100 * statistics.fmean(own) / statistics.fmean(rivals):.2f}% ({part})")
    return ", ".join(shares) or "–"


def _value(row: Json, when: str, name: str) -> float | None:
    rate = row[when].get(name)
    return None if rate is None else rate["value"]


def _retention(row: Json) -> float | None:
    before, after = _value(row, "before", "ca"), _value(row, "after", "ca")
    return None if not before or after is None else after / before


def _mean(rows: Sequence[Json], value: Callable[[Json], float | None]) -> str:
    numbers = [v for row in rows if (v := value(row)) is not None]
    return f"{100 * statistics.fmean(numbers):.1f}% (n = {len(numbers)})" if numbers else "–"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *([markdown(cell) for cell in line] for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
