"""The page of a scan: what was found, how sure that is, and what the recovered trigger looks like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from unbackdoor.base.disk import write_text
from unbackdoor.report.charts import strip_chart as still_strip
from unbackdoor.report.page import fill_page, result_file
from unbackdoor.report.pictures import address, difference, enlarged
from unbackdoor.report.vega import stacked, strip_chart
from unbackdoor.report.verdict import percent
from unbackdoor.triggers.base import shorten

UNIT = "score (steps above the middle of the pool)"


@dataclass(frozen=True)
class Look:
    """One picture, uint8 (3, H, W), clean and with the recovered trigger."""

    clean: Tensor
    triggered: Tensor


def render_scan(result: dict[str, Any], manifest: dict[str, Any], looks: list[Look]) -> str:
    """The page as one HTML string that asks for nothing from outside."""
    from markupsafe import Markup

    level, sentence = scan_sentence(result)
    score, clean = result.get("score") or 0.0, result.get("clean_scores") or []
    shows = bool(clean)
    return fill_page(
        "scan.html",
        manifest,
        level=level,
        sentence=sentence,
        result=result,
        trigger=shorten(result["trigger"]["spec"]),
        rows=[
            {
                **row,
                "share": percent(row["strength"]["value"]) if row["strength"]["n"] else "–",
                "interval": [round(100 * v, 1) for v in row["strength"]["interval"]],
            }
            for row in result["inverters"]
        ],
        null=_null(score, clean) if shows else None,
        fallback=Markup(still_strip(score, stacked(clean, score), UNIT)) if shows else "",
        pictures=[
            (address(look.clean), address(look.triggered), address(difference(look.clean, look.triggered)))
            for look in looks
        ],
        large=enlarged(looks[0].clean, looks[0].triggered) if looks else None,
        charts={"chart-null": strip_chart(score, clean, UNIT)} if shows else {},
        files={"finding.json": result_file(result)},
    )


def _null(score: float, clean: list[float]) -> dict[str, Any]:
    """What the strip shows, in words and as a table."""
    order = sorted(clean, reverse=True)
    middle = order[len(order) // 2] if len(order) % 2 else sum(order[len(order) // 2 - 1 : len(order) // 2 + 1]) / 2
    return {
        "n": len(order),
        "as_high": sum(value >= score for value in order),
        "rows": [
            ("this model", score), ("highest of the clean models", order[0]), ("their median", middle),
            ("their lowest", order[-1]),
        ],
    }  # fmt: skip


def scan_sentence(result: dict[str, Any]) -> tuple[str, str]:
    """(`good` | `mixed` | `bad`, sentence)."""
    if result["backdoored"] is None:
        message = result["message"]
        return "mixed", message[:1].upper() + message[1:] + "."
    if result["backdoored"]:
        name, sure = result["target"]["name"], percent(result["target"]["confidence"])
        return "bad", f"Backdoored, target most likely “{name}” (confidence {sure}): {result['message']}."
    return "good", f"No backdoor found: {result['message']}."


def write_scan_report(path: Path, result: dict[str, Any], manifest: dict[str, Any], looks: list[Look]) -> Path:
    """Write the page atomically; returns `path`."""
    write_text(path, render_scan(result, manifest, looks))
    return path
