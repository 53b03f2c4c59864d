"""Triggers: frozen, seeded, serialisable objects that act on (B, 3, H, W) images in [0, 1].

Adding one is one file in this folder and one line in `_TABLE`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unbackdoor.triggers.base import Trigger

_TABLE = {
    "additive": "unbackdoor.triggers.additive:Additive",
    "badclip": "unbackdoor.triggers.badclip:BadClip",
    "badnets": "unbackdoor.triggers.badnets:BadNets",
    "blended": "unbackdoor.triggers.blended:Blended",
    "flow": "unbackdoor.triggers.flow:Flow",
    "issba": "unbackdoor.triggers.issba:Issba",
    "lowfreq": "unbackdoor.triggers.lowfreq:LowFrequency",
    "masked": "unbackdoor.triggers.masked:Masked",
    "mixed": "unbackdoor.triggers.mixed:Mixed",
    "nashville": "unbackdoor.triggers.nashville:Nashville",
    "recolour": "unbackdoor.triggers.recolour:Recolour",
    "ripple": "unbackdoor.triggers.ripple:Ripple",
    "sig": "unbackdoor.triggers.sig:Sig",
    "stripes": "unbackdoor.triggers.stripes:Stripes",
    "text": "unbackdoor.triggers.text:Text",
    "triangles": "unbackdoor.triggers.triangles:Triangles",
    "wanet": "unbackdoor.triggers.wanet:WaNet",
}


def trigger_names() -> tuple[str, ...]:
    """Names of every registered trigger."""
    return tuple(_TABLE)


def trigger_class(name: str) -> type[Trigger]:
    """The class behind a trigger's name.

    Raises:
        InputError: unknown name.
    """
    from importlib import import_module

    from unbackdoor.errors import InputError

    if name not in _TABLE:
        raise InputError(f"unknown trigger {name[:60]!r}: choose one of {', '.join(_TABLE)}")
    module, _, attribute = _TABLE[name].partition(":")
    found: type[Trigger] = getattr(import_module(module), attribute)
    return found


def parse_trigger(spec: str) -> Trigger:
    """Trigger from its spec: `name` or `name:key=value,key=value`, as `Trigger.spec()` writes it.

    `@FILE` reads the spec from a text file, such as the `trigger.txt` of `craft`: a crafted patch is long.

    Raises:
        InputError: unknown trigger or parameter, a value out of range, or a file that cannot be read.
    """
    from unbackdoor.triggers.base import from_spec

    return from_spec(_from_file(spec[1:]) if spec.startswith("@") else spec)


def _from_file(name: str) -> str:
    from pathlib import Path

    from unbackdoor.errors import InputError
    from unbackdoor.untrusted import read_text

    try:
        text = read_text(Path(name)).strip()
    except InputError as error:
        raise InputError(f"trigger @{error}; give a text file that holds one trigger spec") from None
    if not text or len(text.splitlines()) > 1:
        raise InputError(f"trigger @{name}: expected one line that holds a trigger spec")
    return text
