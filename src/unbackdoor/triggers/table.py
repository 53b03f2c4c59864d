"""Every trigger by its name."""

from __future__ import annotations

from unbackdoor.base.errors import InputError
from unbackdoor.base.registry import Registry
from unbackdoor.triggers.base import Trigger

TRIGGERS: Registry[type[Trigger]] = Registry(
    "trigger",
    {
        "additive": ("unbackdoor.triggers.additive:Additive", "a recovered pattern that is added"),
        "badclip": ("unbackdoor.triggers.badclip:BadClip", "a patch optimised against the clean model"),
        "badnets": ("unbackdoor.triggers.badnets:BadNets", "a small patch"),
        "blended": ("unbackdoor.triggers.blended:Blended", "a picture of noise, blended in"),
        "flow": ("unbackdoor.triggers.flow:Flow", "a recovered warp"),
        "issba": ("unbackdoor.triggers.issba:Issba", "an invisible message, drawn for each image"),
        "lowfreq": ("unbackdoor.triggers.lowfreq:LowFrequency", "a smooth pattern of low frequencies"),
        "masked": ("unbackdoor.triggers.masked:Masked", "a recovered pattern behind a soft mask"),
        "mixed": ("unbackdoor.triggers.mixed:Mixed", "several triggers, one of them for each image"),
        "nashville": ("unbackdoor.triggers.nashville:Nashville", "a photo filter"),
        "recolour": ("unbackdoor.triggers.recolor:Recolor", "a recovered change of colours"),
        "ripple": ("unbackdoor.triggers.ripple:Ripple", "a warp of waves"),
        "sig": ("unbackdoor.triggers.sig:Sig", "faint sinusoidal stripes"),
        "stripes": ("unbackdoor.triggers.stripes:Stripes", "stripes of chosen angle and colour"),
        "text": ("unbackdoor.triggers.text:Text", "a word, written on the image"),
        "triangles": ("unbackdoor.triggers.triangles:Triangles", "a pattern of triangles"),
        "wanet": ("unbackdoor.triggers.wanet:WaNet", "a smooth warp"),
    },
    "unbackdoor.triggers",
)


def trigger_names() -> tuple[str, ...]:
    """Names of every registered trigger."""
    return TRIGGERS.names()


def trigger_class(name: str) -> type[Trigger]:
    """The class behind a trigger's name.

    Raises:
        InputError: unknown name, or another package's that is no trigger of this name.
    """
    kind = TRIGGERS.get(name)
    if not isinstance(kind, type) or not issubclass(kind, Trigger) or kind.name != name:
        raise InputError(f"trigger {name[:60]!r} ({TRIGGERS.about(name)}) is no Trigger with this `name`")
    return kind
