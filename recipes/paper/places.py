"""Where the data sets of a recipe lie, and a recipe in which that, and the model, are filled in."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from unbackdoor.base.disk import write_text
from unbackdoor.base.errors import InputError
from unbackdoor.base.untrusted import read_yaml

_NAMED = re.compile(r"\{data\}/([\w-]+)")  # the data set that a recipe's spec speaks of
Locate = Callable[[str], str]


class AbsentError(InputError):
    """A data set that the user has not got, in a line that says how to name it."""


def specs_of(pairs: list[str]) -> dict[str, str]:
    """`NAME=SPEC` texts as a mapping.

    Raises:
        InputError: one is not of that form.
    """
    specs = {}
    for text in pairs:
        name, equals, spec = text.partition("=")
        if not (name and equals and ":" in spec):
            raise InputError(f"--data {text!r}: write NAME=SPEC, such as cifar100=parquet:PATH")
        specs[name] = spec
    return specs


def locate(name: str, given: Mapping[str, str], root: Path | None) -> str:
    """The spec of a data set: the one that was given, or what lies in the folder of its name under `root`.

    Raises:
        AbsentError: neither.
    """
    if name in given:
        return given[name]
    if root is None or not (root / name).exists():
        where = "" if root is None else f" (there is no {root / name})"
        raise AbsentError(f"{name}: give --data {name}=SPEC, or a --data-root that holds it{where}")
    return _spec_of((root / name).resolve())


def _spec_of(place: Path) -> str:
    """By what kind of files lie there."""
    if any(place.glob("*.tar")):
        return f"wds:{place}/*.tar"
    if next(place.rglob("*.parquet"), None) is not None:
        return f"parquet:{place}"
    tables = sorted(path for path in place.glob("*") if path.suffix in (".csv", ".tsv"))
    return f"csv:{tables[0]}" if len(tables) == 1 else f"folder:{place}"


def fill(recipe: Path, out: Path, models: Mapping[str, str], spec_of: Locate) -> list[str]:
    """Write `recipe` to `out` with models by name and the specs of its data; data sets that are not there are left out.

    Returns:
        Why each of these is.

    Raises:
        AbsentError: none is there.
        InputError: one cannot be used.
    """
    raw = read_yaml(recipe)
    data: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name, entry in raw["data"].items():
        try:
            data[name] = {key: _rooted(value, spec_of) if key in ("source", "test") else value for key, value in
                          entry.items()}  # fmt: skip
        except AbsentError as error:
            missing[name] = str(error)
    if not data:
        raise AbsentError("; ".join(dict.fromkeys(missing.values())))
    out.parent.mkdir(parents=True, exist_ok=True)
    rest = {key: value for key, value in raw.items() if key != "model"}
    write_text(out, yaml.safe_dump({"models": dict(models), **rest, "data": data}, sort_keys=False))
    return [f"left out: {why}" for why in missing.values()]


def _rooted(spec: str, spec_of: Locate) -> str:
    """What stands for `{data}/NAME`; a spec that names no such folder stays as it is."""
    match = _NAMED.search(spec)
    return spec if match is None else spec_of(match.group(1))
