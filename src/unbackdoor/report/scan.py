"""The page of a scan: what was found, how sure that is, and what the recovered trigger looks like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from unbackdoor.base.disk import write_text
from unbackdoor.report.page import fill_page, png
from unbackdoor.report.verdict import percent
from unbackdoor.triggers.base import shorten


@dataclass(frozen=True)
class Look:
    """One picture, uint8 (3, H, W), clean and with the recovered trigger."""

    clean: Tensor
    triggered: Tensor


def render_scan(result: dict[str, Any], manifest: dict[str, Any], looks: list[Look]) -> str:
    """The page as one HTML string that asks for nothing from outside."""
    level, sentence = scan_sentence(result)
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
        pictures=[(png(look.clean), png(look.triggered)) for look in looks],
    )


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
