"""Defences, one file each, all with the same signature: (clip, data, config, work) → cure of that clip in place.

Adding one is one file with a frozen `Config` and a `defend` function, and one line in `_TABLE`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from unbackdoor.clip.handle import Clip
    from unbackdoor.defenses.base import Cure, Defender, Work

# name → module in this folder; a module of several names has a Config for each in its PRESETS
_TABLE: dict[str, str] = {
    "lora": "tbar",
    "distilled": "tbar",
    "anchored": "tbar",
    "tbar": "tbar",
    "nothing": "nothing",
    "contrastive": "contrastive",
    "supervised": "supervised",
    "linear-probe": "linear_probe",
    "interpolate": "interpolate",
    "ascent": "ascent",
    "fine-pruning": "fine_pruning",
    "anp": "anp",
    "ibau": "ibau",
    "abl": "abl",
    "cleanclip": "cleanclip",
    "roclip": "roclip",
    "par": "par",
}


def defence_names() -> tuple[str, ...]:
    """Names of every registered defence."""
    return tuple(_TABLE)


def defence_config(name: str, settings: Mapping[str, Any] | None = None) -> Any:
    """The configuration behind a name, its paper's defaults changed by `settings`.

    Raises:
        InputError: unknown defence or setting.
    """
    from importlib import import_module

    from unbackdoor.defenses.base import configured
    from unbackdoor.errors import InputError

    if name not in _TABLE:
        raise InputError(f"unknown defence {name!r}: choose one of {', '.join(_TABLE)}")
    module = import_module(f"unbackdoor.defenses.{_TABLE[name]}")
    base = module.PRESETS[name] if hasattr(module, "PRESETS") else module.Config()
    return configured(f"defence {name}", base, settings or {})


def defence(name: str) -> Callable[[Clip, Defender, Any, Work], Cure]:
    """The function behind a name: `defend(clip, data, config, work)`.

    Raises:
        InputError: unknown defence.
    """
    from importlib import import_module

    from unbackdoor.errors import InputError

    if name not in _TABLE:
        raise InputError(f"unknown defence {name!r}: choose one of {', '.join(_TABLE)}")
    function: Callable[[Clip, Defender, Any, Work], Cure] = import_module(f"unbackdoor.defenses.{_TABLE[name]}").defend
    return function
