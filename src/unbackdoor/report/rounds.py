"""The page of a blind cure: round by round what was cured, what is left of it, and what the scan after it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unbackdoor.base.disk import write_text
from unbackdoor.report.page import fill_page
from unbackdoor.report.verdict import percent


def render_rounds(result: dict[str, Any], manifest: dict[str, Any]) -> str:
    """The page as one HTML string that asks for nothing from outside."""
    level, sentence = rounds_sentence(result)
    rows = [
        {
            **row,
            "recovered": [_text(row["recovered_asr"][when]) for when in ("before", "after")],
            "kept": _text(row["agreement"]),
            "family": None if row["family"] is None else _family(row["family"]),
        }
        for row in result["rounds"]
    ]
    return fill_page("rounds.html", manifest, level=level, sentence=sentence, result=result, rows=rows)


def rounds_sentence(result: dict[str, Any]) -> tuple[str, str]:
    """(`good` | `mixed` | `bad`, sentence)."""
    if result["left"] is not None:
        return "bad", f"Not done: “{result['left']}” is still a finding; give more rounds."
    if not result["whole"]:
        return "bad", "Not whole: something of what was found is left, whatever the last scan says."
    if not result["quiet"]:
        return "mixed", "What was found is cured; the last scan does not call the model clean."
    return "good", "What was found is cured, and the last scan finds nothing."


def write_rounds_report(path: Path, result: dict[str, Any], manifest: dict[str, Any]) -> Path:
    """Write the page atomically; returns `path`."""
    write_text(path, render_rounds(result, manifest))
    return path


def _family(family: dict[str, Any]) -> dict[str, Any]:
    """Of triggers that the cure is not taken from: how many, held-out pictures that they turn, and what is left."""
    turned = [_text(family[when]["turned"]) for when in ("before", "after")]
    return {"count": len(family["triggers"]), "turned": turned, "left": percent(family["left"])}


def _text(share: dict[str, Any]) -> str:
    if share["value"] is None:
        return "–"
    low, high = (f"{100 * v:.1f}" for v in share["interval"])
    return f"{percent(share['value'])} [{low}, {high}], n = {share['n']}"
