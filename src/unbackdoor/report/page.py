"""Fill the page's templates: one HTML file that asks for nothing from outside.

Class names, paths and settings are untrusted: everything is escaped, and the page's own policy lets no script run but
the page's, by their hashes, and no request out.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).parent.parent / "assets" / "charts"
LARGEST_FILES = 300_000  # bytes of all files together that a page offers to download
_SAFE = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026"}


def fill_page(name: str, manifest: dict[str, Any], **values: Any) -> str:
    """A template filled with `values` and with the manifest's tables; everything is escaped.

    Args:
        values: what the template takes, and of these, each where there is one: `vector` is one more table; `charts` are
            Vega-Lite specifications by the id of the element that they are drawn into; `data` is more for the page's
            script, anything that JSON holds; `files` are texts by name, to be downloaded from the page.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    package = __name__.rpartition(".")[0]
    environment = Environment(
        loader=PackageLoader(package, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    facts: dict[str, Any] = {k: manifest[k] for k in ("hashes", "versions", "machine", "notes") if k in manifest}
    tables = {
        "Trigger vector": values.pop("vector", None),
        "Settings": flat(manifest.get("config", {})),
        "Hashes, versions, machine": flat(facts),
    }
    charts, files = values.pop("charts", {}), values.pop("files", {})
    scripts = [*([_asset("charts.min.js")] if charts else []), _own_script()]
    data = {"charts": charts, **values.pop("data", {})}
    return environment.get_template(name).render(
        **values,
        tables=tables,
        downloads=_downloads({**files, **_settings(manifest)}),
        data=Markup(script_json(data)),
        scripts=[Markup(script) for script in scripts],
        policy=_policy(scripts),
    )


def script_json(value: Any) -> str:
    """JSON that may stand inside of <script>: no text in it ends the element or begins a comment."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_SAFE)


def result_file(result: dict[str, Any]) -> str:
    """A result as its verb writes it."""
    return json.dumps(result, indent=2, allow_nan=False) + "\n"


@cache
def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="ascii")


@cache
def _own_script() -> str:
    return (Path(__file__).parent / "templates" / "page.js").read_text(encoding="utf-8")


def _policy(scripts: list[str]) -> str:
    """What the browser shall let the page do: run these scripts, use styles and pictures of its own."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def _settings(manifest: dict[str, Any]) -> dict[str, str]:
    import yaml

    if not manifest:
        return {}
    # Not called config.yaml, which `--config` reads: a manifest has what a run came to, not the options it was given.
    settings = yaml.safe_dump(json.loads(json.dumps(manifest.get("config", {}))), sort_keys=False, allow_unicode=True)
    return {"manifest.json": json.dumps(manifest, indent=2) + "\n", "settings.yaml": settings}


def _downloads(files: dict[str, str]) -> list[dict[str, str | None]]:
    """Name, size and `data:` address of each; no address where it is too large for the page."""
    rows: list[dict[str, str | None]] = []
    room = LARGEST_FILES
    for name, text in files.items():
        raw = text.encode(errors="replace")
        kind = "application/json" if name.endswith(".json") else "text/plain;charset=utf-8"
        address = f"data:{kind};base64,{base64.b64encode(raw).decode()}" if len(raw) <= room else None
        room -= len(raw) if address else 0
        rows.append({"name": name, "size": f"{max(1, round(len(raw) / 1000))} kB", "address": address})
    return rows


def flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as rows of a table, `outer.inner` and its value; what is None is left out."""
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict):
            rows += flat(item, f"{name}.")
        elif item is not None:
            rows.append((name, item if isinstance(item, str) else json.dumps(item)))
    return rows
