"""Fill the page's template. Class names, paths and settings are untrusted: everything is escaped."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from unbackdoor.base.disk import write_text
from unbackdoor.report.curve import alpha_curve
from unbackdoor.report.verdict import percent, verdict
from unbackdoor.triggers.base import shorten

_RATES = (
    ("ca", "Clean accuracy (CA)", "share of clean test images named correctly"),
    ("asr", "Attack success rate (ASR)", "share of triggered images answered with the target; target class left out"),
    ("triggered_accuracy", "Triggered accuracy", "share of triggered images named correctly all the same"),
)


@dataclass(frozen=True)
class Example:
    """One test picture, uint8 (3, H, W), clean and triggered, with the answers before and after the cure."""

    clean: Tensor
    triggered: Tensor
    truth: str
    clean_before: str
    clean_after: str
    triggered_before: str
    triggered_after: str


def render(result: dict[str, Any], manifest: dict[str, Any], examples: list[Example]) -> str:
    """The page as one HTML string that asks for nothing from outside."""
    from markupsafe import Markup

    level, sentence = verdict(result)
    columns = [(name, result[name]) for name in ("original", "before", "after") if result.get(name)]
    rows = [
        (title, meaning, [_cell(column, key) for _, column in columns])
        for key, title, meaning in _RATES
        if any(column.get(key) is not None for _, column in columns)
    ]
    return fill_page(
        "page.html",
        manifest,
        level=level,
        sentence=sentence,
        result={"labels_used": True, **result, "trigger": shorten(result["trigger"])},
        columns=[name for name, _ in columns],
        rows=rows,
        # Escaped where it is drawn.
        curve=Markup(alpha_curve(result)),
        pictures=[(example, png(example.clean), png(example.triggered)) for example in examples],
        seconds=manifest.get("seconds"),
        memory=manifest.get("peak_memory_mib"),
        vector=_flat(result.get("vector") or {}),
    )


def fill_page(name: str, manifest: dict[str, Any], **values: Any) -> str:
    """A template filled with `values` and with the manifest's tables; everything is escaped.

    Args:
        values: `vector` is one more table, where there is one.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__name__.rpartition(".")[0], "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    facts: dict[str, Any] = {k: manifest[k] for k in ("hashes", "versions", "machine", "notes") if k in manifest}
    page = environment.get_template(name)
    tables = {
        "Trigger vector": values.pop("vector", None),
        "Settings": _flat(manifest.get("config", {})),
        "Hashes, versions, machine": _flat(facts),
    }
    return page.render(**values, tables=tables)


def write_report(path: Path, result: dict[str, Any], manifest: dict[str, Any], examples: list[Example]) -> Path:
    """Write the page atomically; returns `path`."""
    write_text(path, render(result, manifest, examples))
    return path


def png(image: Tensor) -> str:
    """`data:` address of a uint8 picture (3, H, W)."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _cell(column: dict[str, Any], key: str) -> dict[str, str]:
    value = column.get(key)
    if value is None:
        return {"value": "–", "detail": "not measured"}
    low, high = column["interval"][key]
    return {"value": percent(value), "detail": f"{low * 100:.1f}–{high * 100:.1f}, n = {column['n'][key]}"}


def _flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as rows of a table, `outer.inner` and its value; what is None is left out."""
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict):
            rows += _flat(item, f"{name}.")
        elif item is not None:
            rows.append((name, item if isinstance(item, str) else json.dumps(item)))
    return rows
