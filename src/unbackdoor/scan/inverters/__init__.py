"""Trigger reverse-engineering: inverters, one file each, all with the same signature, and what their statistics weigh.

Adding an inverter is one file with an `invert(subject)` function and the `Inverter` that holds it, and one line in
`INVERTERS`, or an entry point `unbackdoor.inverters` of another package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unbackdoor.base.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unbackdoor.scan.inverters.base import Inverter

INVERTERS: Registry[Inverter] = Registry(
    "inverter",
    {
        "patch": ("unbackdoor.scan.inverters.patch:INVERTER", "the smallest patch"),
        "additive": ("unbackdoor.scan.inverters.additive:INVERTER", "the faintest pattern that is added"),
        "spectral": ("unbackdoor.scan.inverters.spectral:INVERTER", "the fewest waves across the image"),
        "wave": ("unbackdoor.scan.inverters.wave:INVERTER", "one wave, looked at and not searched for"),
        "warp": ("unbackdoor.scan.inverters.warp:INVERTER", "the smallest warp"),
        "colour": ("unbackdoor.scan.inverters.color:INVERTER", "the smallest change of colours"),
        "collapse": ("unbackdoor.scan.inverters.collapse:INVERTER", "DECREE: a stamp that makes all embeddings alike"),
    },
    "unbackdoor.inverters",
)


def inverter_names() -> tuple[str, ...]:
    """Names of every registered inverter."""
    return INVERTERS.names()


def inverter(name: str) -> Inverter:
    """The inverter behind a name.

    Raises:
        InputError: unknown inverter, or another package's that is none.
    """
    from unbackdoor.scan.inverters.base import Inverter

    return INVERTERS.get_a(Inverter, name)


def versions(names: Sequence[str] | None = None) -> dict[str, int]:
    """Versions of inverters, all of them by default.

    Raises:
        InputError: unknown inverter.
    """
    return {name: inverter(name).version for name in names or inverter_names()}
