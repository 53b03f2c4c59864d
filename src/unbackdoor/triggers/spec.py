"""From a spec string to a trigger."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

from unbackdoor.base.errors import InputError
from unbackdoor.base.untrusted import read_text
from unbackdoor.triggers.base import Trigger, Value, shorten
from unbackdoor.triggers.table import trigger_class

# What a spec may ask for, wherever it comes from. Whole numbers but a seed are pixels, points or waves.
_LARGEST, _LARGEST_SEED, _LARGEST_SHARE = 4096, 2**63, 1e6


def parse_trigger(spec: str) -> Trigger:
    """Trigger from its spec: `name` or `name:key=value,key=value`, as `Trigger.spec()` writes it.

    `@FILE` reads the spec from a text file, such as the `trigger.txt` of `craft`: a crafted patch is long.

    Raises:
        InputError: unknown trigger or parameter, a value out of range, or a file that cannot be read.
    """
    return from_spec(_from_file(spec[1:]) if spec.startswith("@") else spec)


def from_spec(spec: str) -> Trigger:
    """Trigger from `name` or `name:key=value,key=value`.

    Raises:
        InputError: unknown trigger or parameter, or a value out of range.
    """
    name, _, rest = spec.partition(":")
    kind = trigger_class(name.strip())
    types = get_type_hints(kind)
    known = {f.name: types[f.name] for f in fields(kind)}
    values: dict[str, Value] = {}
    for pair in filter(None, (p.strip() for p in rest.split(","))):
        key, equals, text = pair.partition("=")
        if not equals or key not in known:
            raise InputError(f"trigger {quoted(spec)}: no parameter {key[:40]!r}; {name} takes {', '.join(known)}")
        values[key] = _read(spec, key, text, known[key])
    return kind(**values)


def _read(spec: str, key: str, text: str, kind: type) -> Value:
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        parsed: Value = kind(text)
    except (ValueError, KeyError):
        raise InputError(f"trigger {quoted(spec)}: {key}={text[:40]} is not a {kind.__name__}") from None
    if isinstance(parsed, int | float):
        largest = _LARGEST_SHARE if kind is float else _LARGEST_SEED if key == "seed" else _LARGEST
        if not abs(parsed) <= largest:  # nor is NaN
            raise InputError(f"trigger {quoted(spec)}: {key}={text[:40]} is no number from {-largest:g} to {largest:g}")
    return parsed


def quoted(spec: str) -> str:
    """A spec for an error's line."""
    short = shorten(spec)
    return repr(short if len(short) <= 200 else short[:200] + "…")


def _from_file(name: str) -> str:
    try:
        text = read_text(Path(name)).strip()
    except InputError as error:
        raise InputError(f"trigger @{error}; give a text file that holds one trigger spec") from None
    if not text or len(text.splitlines()) > 1:
        raise InputError(f"trigger @{name}: expected one line that holds a trigger spec")
    return text
