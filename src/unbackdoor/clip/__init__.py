"""One handle over OpenCLIP and Hugging Face dual encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unbackdoor.clip.handle import Clip
    from unbackdoor.clip.load import load

__all__ = ["Clip", "load"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "Clip":
        return import_module("unbackdoor.clip.handle").Clip
    if name == "load":
        return import_module("unbackdoor.clip.load").load
    raise AttributeError(f"module 'unbackdoor.clip' has no attribute {name!r}")
