"""Triggers: frozen, seeded, serialisable objects that act on (B, 3, H, W) images in [0, 1].

Adding one is one file in this folder and one line in `triggers/table.py`, or an entry point `unbackdoor.triggers` of
another package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unbackdoor.triggers.spec import parse_trigger
    from unbackdoor.triggers.table import trigger_class, trigger_names

__all__ = ["parse_trigger", "trigger_class", "trigger_names"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in __all__:
        return getattr(import_module(f"unbackdoor.triggers.{'spec' if name == 'parse_trigger' else 'table'}"), name)
    raise AttributeError(f"module 'unbackdoor.triggers' has no attribute {name!r}")
