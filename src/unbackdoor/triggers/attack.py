"""A trigger and the class that it leads to."""

from __future__ import annotations

from dataclasses import dataclass

from unbackdoor.triggers.base import Trigger


@dataclass(frozen=True)
class Attack:
    """What an attacker wants.

    Args:
        trigger: what is stamped.
        target: index into the classes of what triggered images shall get.
        name: of that class.
    """

    trigger: Trigger
    target: int
    name: str
