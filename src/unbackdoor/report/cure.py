"""The page of a cure: whether the backdoor is gone, what that cost, who was hit, and what another α would have done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from unbackdoor.base.disk import write_text
from unbackdoor.report.classes import ROWS, class_rows, class_sentence
from unbackdoor.report.curve import alpha_curve, limits, rate_names
from unbackdoor.report.page import fill_page, flat, result_file
from unbackdoor.report.pictures import address, difference, enlarged
from unbackdoor.report.vega import alpha_chart, map_chart
from unbackdoor.report.verdict import percent, verdict
from unbackdoor.triggers.base import shorten

_RATES = (
    ("ca", "Clean accuracy (CA)", "share of clean test images named correctly"),
    ("asr", "Attack success rate (ASR)", "share of triggered images answered with the target; target class left out"),
    ("triggered_accuracy", "Triggered accuracy", "share of triggered images named correctly all the same"),
)
# Where nobody has labels, images count as the suspect answers them.
_BLIND = {
    "ca": ("Agreement with the suspect", "share of clean test images answered as the suspect answers them"),
    "triggered_accuracy": ("Answered as without the trigger", "share of triggered images that the trigger left alone"),
}


@dataclass(frozen=True)
class Example:
    """One test picture, uint8 (3, H, W), clean and triggered, with the answers before and after the cure.

    Args:
        along: answers to it clean and triggered at each point of the result's curve, where they were asked for.
    """

    clean: Tensor
    triggered: Tensor
    truth: str
    clean_before: str
    clean_after: str
    triggered_before: str
    triggered_after: str
    along: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Map:
    """Where images lie in the embedding space, in two of its directions.

    Args:
        points: across, up, index of the state, name of the class.
        states: such as "clean, suspect"; in the order of their colors.
        share: of all variance that the two directions hold.
        cosines: mean cosine of an image's triggered view with its clean one, by model.
    """

    points: tuple[tuple[float, float, int, str], ...]
    states: tuple[str, ...]
    share: float
    cosines: dict[str, float]
    n: int


def render(result: dict[str, Any], manifest: dict[str, Any], examples: list[Example], places: Map | None = None) -> str:
    """The page as one HTML string that asks for nothing from outside."""
    level, sentence = verdict(result)
    file = result_file(result)
    result = {"labels_used": True, **result}
    blind = result["verb"] == "unlearn-scan"
    curve = _curve(result)
    charts = {}
    if curve:
        charts["chart-alpha"] = alpha_chart(result["curve"], rate_names(result), limits(result), result["alpha"])
    if places is not None:
        named = [(x, y, places.states[i], f"{name}: {places.states[i]}") for x, y, i, name in places.points]
        charts["chart-map"] = map_chart(named, places.states)
    lines = result.get("by_class") or []
    columns = [(name, result[name]) for name in ("original", "before", "after") if result.get(name)]
    return fill_page(
        "cure.html",
        manifest,
        level=level,
        sentence=sentence,
        result={**result, "trigger": shorten(result["trigger"])},
        columns=[name for name, _ in columns],
        rows=[_row(key, title, meaning, columns, blind) for key, title, meaning in _RATES if _measured(columns, key)],
        curve=curve,
        fallback=_markup(alpha_curve(result)),
        pictures=[_pictures(example) for example in examples],
        large=enlarged(examples[0].clean, examples[0].triggered) if examples else None,
        classes=class_rows(lines, result["target"]),
        classes_left=max(0, len(lines) - ROWS),
        classes_sentence=class_sentence(lines, result["target"]) if lines else "",
        places=places,
        blind=blind,
        seconds=manifest.get("seconds"),
        memory=manifest.get("peak_memory_mib"),
        vector=flat(result.get("vector") or {}),
        charts=charts,
        data={"examples": [example.along for example in examples]},
        files={"result.json": file},
    )


def write_report(
    path: Path,
    result: dict[str, Any],
    manifest: dict[str, Any],
    examples: list[Example],
    places: Map | None = None,
) -> Path:
    """Write the page atomically; returns `path`."""
    write_text(path, render(result, manifest, examples, places))
    return path


def _measured(columns: Sequence[tuple[str, dict[str, Any]]], key: str) -> bool:
    return any(column.get(key) is not None for _, column in columns)


def _row(
    key: str, title: str, meaning: str, columns: Sequence[tuple[str, dict[str, Any]]], blind: bool
) -> tuple[str, str, list[dict[str, Any]]]:
    title, meaning = _BLIND.get(key, (title, meaning)) if blind else (title, meaning)
    shares = [
        {"value": column.get(key), "n": column["n"].get(key), "interval": column["interval"].get(key)}
        for _, column in columns
    ]
    return title, meaning, [_cell(share) for share in shares]


def _curve(result: dict[str, Any]) -> dict[str, Any] | None:
    """The slider's table: a row for each α that was measured, a cell for each rate; None of fewer than two."""
    points = result.get("curve") or []
    if len(points) < 2:
        return None
    names = rate_names(result)
    alphas = [point["alpha"] for point in points]
    return {
        "names": [name[:1].upper() + name[1:] for name in names.values()],
        "rows": [
            {"alpha": point["alpha"], "text": f"{point['alpha']:.4g}", "cells": [_cell(point.get(k)) for k in names]}
            for point in points
        ],
        "chosen": min(range(len(alphas)), key=lambda i: abs(alphas[i] - result["alpha"])),
    }


def _cell(share: dict[str, Any] | None) -> dict[str, Any]:
    """A share with its n and interval: the number as the result has it, and what is read."""
    if share is None or share["value"] is None:
        return {"value": None, "text": "–", "detail": "not measured"}
    low, high = share["interval"]
    return {
        "value": share["value"],
        "text": percent(share["value"]),
        "detail": f"{low * 100:.1f}–{high * 100:.1f}, n = {share['n']}",
    }


def _pictures(example: Example) -> dict[str, Any]:
    return {
        "example": example,
        "clean": address(example.clean),
        "triggered": address(example.triggered),
        "difference": address(difference(example.clean, example.triggered)),
    }


def _markup(text: str) -> Any:
    """What was escaped where it was made."""
    from markupsafe import Markup

    return Markup(text)
