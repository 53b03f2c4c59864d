"""Trigger reverse-engineering: inverters, one file each, all with the same signature, and what their statistics weigh.

Adding an inverter is one file with an `invert(subject)` function and one line in `_TABLE`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from unbackdoor.inversion.base import Recovered, Subject

# Module and version; whoever changes an inverter raises its version, so that old nulls are not taken for new ones.
_TABLE = {
    "patch": ("unbackdoor.inversion.patch", 6),
    "additive": ("unbackdoor.inversion.additive", 6),
    "spectral": ("unbackdoor.inversion.spectral", 10),
    "wave": ("unbackdoor.inversion.wave", 1),
    "warp": ("unbackdoor.inversion.warp", 6),
    "colour": ("unbackdoor.inversion.colour", 6),
    "collapse": ("unbackdoor.inversion.collapse", 3),
}


def inverter_names() -> tuple[str, ...]:
    """Names of every registered inverter."""
    return tuple(_TABLE)


def module_of(name: str) -> str:
    """Dotted name of the module of a registered inverter.

    Raises:
        InputError: unknown inverter.
    """
    return _entry(name)[0]


def versions(names: Sequence[str] | None = None) -> dict[str, int]:
    """Versions of inverters, all of them by default.

    Raises:
        InputError: unknown inverter.
    """
    return {name: _entry(name)[1] for name in names or _TABLE}


def _entry(name: str) -> tuple[str, int]:
    from unbackdoor.errors import InputError

    if name not in _TABLE:
        raise InputError(f"unknown inverter {name!r}: choose one of {', '.join(_TABLE)}")
    return _TABLE[name]


def inverter(name: str) -> Callable[[Subject], Recovered]:
    """The function behind a name: `invert(subject)`.

    Raises:
        InputError: unknown inverter.
    """
    from importlib import import_module

    function: Callable[[Subject], Recovered] = import_module(module_of(name)).invert
    return function
