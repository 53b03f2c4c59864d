"""Files to which a run adds a line for everything that is finished, so that a killed run goes on behind it.

A line is one JSON value. The last one may be torn, as it was being written when the run was killed; it is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from unbackdoor.base.devices import is_first_process
from unbackdoor.base.errors import InputError
from unbackdoor.base.untrusted import as_type, parse_json, read_bytes

T = TypeVar("T")
LARGEST = 256 << 20


def append(path: Path, value: Any) -> None:
    """Add a line, of which mappings are written as dicts; of several processes the first alone does."""
    if not is_first_process():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # A line that a killed run left unfinished must not run into this one.
    torn = path.exists() and not _ends_whole(path)
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if torn else "") + json.dumps(value, allow_nan=False, default=_as_dict) + "\n")


def _as_dict(value: Any) -> dict[str, Any]:
    """What a verb returned is a mapping and no dict."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def read(path: Path, kind: type[T]) -> list[T]:
    """The finished lines, checked against a type; none where there is no file.

    Raises:
        InputError: a line that is finished is damaged or of another type.
    """
    if not path.exists():
        return []
    entries: list[T] = []
    lines = read_bytes(path, LARGEST).split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entries.append(as_type(parse_json(line, where), kind, where))
        except InputError:
            if _torn(line):
                continue
            raise
    return entries


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(0, 2)
        if not file.tell():
            return True
        file.seek(-1, 2)
        return file.read() == b"\n"


def _torn(line: bytes) -> bool:
    """Whether it is the beginning of a JSON value and no whole one."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return True
    return False
