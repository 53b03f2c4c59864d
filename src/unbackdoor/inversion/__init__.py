"""Trigger reverse-engineering: inverters, one file each, all with the same signature, and what their statistics weigh.

Adding an inverter is one file with an `invert(subject, config)` function and one line in `_TABLE`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from unbackdoor.inversion.base import Recovered, Subject

VERSION = 3  # raise when an inverter changes, so that old nulls and examinations are not taken for new ones

_TABLE = {
    "patch": "unbackdoor.inversion.patch",
    "additive": "unbackdoor.inversion.additive",
    "spectral": "unbackdoor.inversion.spectral",
    "warp": "unbackdoor.inversion.warp",
    "colour": "unbackdoor.inversion.colour",
    "collapse": "unbackdoor.inversion.collapse",
}


def inverter_names() -> tuple[str, ...]:
    """Names of every registered inverter."""
    return tuple(_TABLE)


def module_of(name: str) -> str:
    """Dotted name of the module of a registered inverter.

    Raises:
        InputError: unknown inverter.
    """
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
