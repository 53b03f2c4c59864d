"""The page of `vet`: the verdict, the policy line by line, what the files are, and the way to scans and cures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unbackdoor.base.disk import write_text
from unbackdoor.report.page import fill_page
from unbackdoor.report.verdict import percent
from unbackdoor.triggers.base import shorten

_LEVELS = {0: "good", 4: "mixed"}
OUTCOMES = {"pass": "passes", "fail": "fails", "cannot-tell": "cannot tell", "warn": "warning", "not-run": "not run"}


def write_vet_report(path: Path, result: dict[str, Any], manifest: dict[str, Any]) -> Path:
    """Write the page atomically; returns `path`."""
    write_text(path, render_vet(result, manifest))
    return path


def render_vet(result: dict[str, Any], manifest: dict[str, Any]) -> str:
    """The page as one HTML string that asks for nothing from outside; links lead to pages beside it."""
    models = result["models"]
    # A model that passes on the strength of its cured copy is itself backdoored.
    cured = any(row["verdict"] == "cured" for row in models) and result["exit_code"] == 0
    level = "mixed" if cured else _LEVELS.get(result["exit_code"], "bad")
    return fill_page(
        "vet.html",
        manifest,
        level=level,
        sentence=result["sentence"],
        result=result,
        outcomes=OUTCOMES,
        models=[_model(row) for row in models],
    )


def _model(row: dict[str, Any]) -> dict[str, Any]:
    """A model with what the template writes of it."""
    scan, cure, folder = row["scan"], row["cure"], row["folder"]
    prefix = f"{folder}/" if folder else ""
    return {
        **row,
        "link": f"{prefix}report.html" if folder else None,
        "scan_link": f"{prefix}{scan['report']}" if scan and scan["report"] else None,
        "cure_link": f"{prefix}{cure['report']}" if cure else None,
        "trigger": shorten(scan["trigger"]) if scan else None,
        "strength": _share(scan["strength"]) if scan else None,
        "picture": f"data:image/png;base64,{scan['picture']}" if scan and scan["picture"] else None,
        "cure_rates": [(name, _share(cure[name])) for name in ("before", "after", "strength")] if cure else [],
    }


def _share(share: dict[str, Any]) -> str:
    """`93.8% (71.7–98.9, n = 16)`."""
    if share["value"] is None:
        return "–"
    low, high = share["interval"]
    return f"{percent(share['value'])} ({100 * low:.1f}–{100 * high:.1f}, n = {share['n']})"
