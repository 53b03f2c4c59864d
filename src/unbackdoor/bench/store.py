"""Where a cell's files lie: its address is a hash over its whole configuration."""

from __future__ import annotations

from pathlib import Path

from unbackdoor.base.manifest import run_key
from unbackdoor.bench import results
from unbackdoor.bench.recipe import Json

RESULT = "result.json"


def address(config: Json) -> str:
    """Sixteen hex digits that stand for a whole configuration."""
    return run_key(config)[:16]


def folder_of(out: Path, config: Json) -> Path:
    """Where a cell's files lie."""
    return out / f"{config['kind']}s" / address(config)


def read_result(out: Path, config: Json) -> Json | None:
    """Result of a finished cell, None when it is not finished.

    Raises:
        InputError: as `results.read`.
    """
    path = folder_of(out, config) / RESULT
    return results.read(path, config["kind"]) if path.exists() else None
