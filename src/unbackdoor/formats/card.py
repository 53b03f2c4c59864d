"""A section for a model's card, in Markdown; what comes from files of strangers stays the text that it is."""

from __future__ import annotations

from collections.abc import Sequence

from unbackdoor.base.printable import markdown
from unbackdoor.formats.base import LIMITS, NAME, Format, names, number, share_text, shares
from unbackdoor.triggers.base import shorten
from unbackdoor.vetting.result import VetResult, Vetting

_SIGN = {"clean": "✅", "cured": "⚠️", "cannot-tell": "❔"}


def render(result: VetResult) -> str:
    """The section of one model."""
    (row,) = result.models
    lines = [
        "## Backdoor check",
        "",
        f"> {_SIGN.get(row.verdict, '⛔')} {markdown(row.sentence)}",
        "",
        f"Checked with {NAME} {markdown(result.version)} on {markdown(row.finished)}, with images of "
        f"{markdown(result.data)}.",
        "",
        *_table(
            ("Check", "Outcome", "Wanted", "Measured"), [(c.name, c.outcome, c.wanted, c.measured) for c in row.checks]
        ),
    ]
    measured = [(name, where, share_text(share)) for name, where, share in shares(row)]
    if row.scan is not None and row.scan.p_value is not None:
        against = f"against {row.scan.clean_models} clean models"
        measured.insert(0, ("p-value of the scan", against, number(row.scan.p_value)))
    if measured:
        lines += ["", *_table(("Measured", "On", "Value [95% interval]"), measured)]
    lines += _trigger(row)
    files = [(name, f.format, f.sha256) for name, f in zip(names(row.files), row.files, strict=True)]
    if files:
        lines += ["", *_table(("File", "Format", "SHA-256"), files)]
    return "\n".join([*lines, "", *(f"- {limit}" for limit in LIMITS)]) + "\n"


def summary(result: VetResult) -> str:
    """A table with a line for each of several models."""
    rows = []
    for row in result.models:
        p_value = None if row.scan is None else row.scan.p_value
        target = row.scan.target if row.scan is not None and row.scan.backdoored else "–"
        rows.append((row.model, row.verdict, str(row.exit_code), number(p_value), target, row.sentence))
    head = ("Model", "Verdict", "Exit code", "p", "Target", "Why")
    return "\n".join([markdown(result.sentence), "", *_table(head, rows)]) + "\n"


def _trigger(row: Vetting) -> list[str]:
    if row.scan is None or not row.scan.backdoored:
        return []
    return [
        "",
        f"Target, most likely: **{markdown(row.scan.target)}**. Recovered trigger: "
        f"{markdown(shorten(row.scan.trigger)[:500])}.",
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    return [line(head), line(("---",) * len(head)), *(line(tuple(map(markdown, row))) for row in rows)]


FORMAT = Format("vet.card.md", render, each=True)
