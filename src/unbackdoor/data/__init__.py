"""Where images and pairs come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unbackdoor.data.images import ImageSet
    from unbackdoor.data.specs import describe, load_images

__all__ = ["ImageSet", "describe", "load_images"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in ("load_images", "describe"):
        return getattr(import_module("unbackdoor.data.specs"), name)
    if name == "ImageSet":
        return import_module("unbackdoor.data.images").ImageSet
    raise AttributeError(f"module 'unbackdoor.data' has no attribute {name!r}")
