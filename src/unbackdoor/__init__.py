"""unbackdoor: find, measure and remove backdoors in CLIP models by weight arithmetic.

>>> import unbackdoor
>>> clip = unbackdoor.load("embedded")
>>> unbackdoor.evaluate(model=clip, data="embedded:digits")["ca"]["value"]  # doctest: +SKIP
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from unbackdoor.version import __version__

_PUBLIC = {
    "load": "unbackdoor.clip.load",
    "load_images": "unbackdoor.data",
    "parse_trigger": "unbackdoor.triggers",
    "bench": "unbackdoor.verbs.bench",
    "convert": "unbackdoor.verbs.convert",
    "craft": "unbackdoor.verbs.craft",
    "poison": "unbackdoor.verbs.poison",
    "scan": "unbackdoor.verbs.scan",
    "calibrate": "unbackdoor.verbs.calibrate",
    "trigger_vector": "unbackdoor.verbs.vector",
    "unlearn": "unbackdoor.verbs.unlearn",
    "unlearn_scan": "unbackdoor.verbs.unlearn_scan",
    "disentangle": "unbackdoor.verbs.disentangle",
    "evaluate": "unbackdoor.verbs.evaluate",
    "info": "unbackdoor.verbs.info",
    "locate": "unbackdoor.verbs.locate",
    "demo": "unbackdoor.verbs.demo",
    "vet": "unbackdoor.verbs.vet",
    "on_progress": "unbackdoor.base.progress",
    "InputError": "unbackdoor.base.errors",
}
__all__ = [
    "InputError",
    "__version__",
    "bench",
    "calibrate",
    "convert",
    "craft",
    "demo",
    "disentangle",
    "evaluate",
    "info",
    "load",
    "load_images",
    "locate",
    "on_progress",
    "parse_trigger",
    "poison",
    "scan",
    "trigger_vector",
    "unlearn",
    "unlearn_scan",
    "vet",
]

if TYPE_CHECKING:
    from unbackdoor.base.errors import InputError
    from unbackdoor.base.progress import on_progress
    from unbackdoor.clip.load import load
    from unbackdoor.data import load_images
    from unbackdoor.triggers import parse_trigger
    from unbackdoor.verbs.bench import bench
    from unbackdoor.verbs.calibrate import calibrate
    from unbackdoor.verbs.convert import convert
    from unbackdoor.verbs.craft import craft
    from unbackdoor.verbs.demo import demo
    from unbackdoor.verbs.disentangle import disentangle
    from unbackdoor.verbs.evaluate import evaluate
    from unbackdoor.verbs.info import info
    from unbackdoor.verbs.locate import locate
    from unbackdoor.verbs.poison import poison
    from unbackdoor.verbs.scan import scan
    from unbackdoor.verbs.unlearn import unlearn
    from unbackdoor.verbs.unlearn_scan import unlearn_scan
    from unbackdoor.verbs.vector import trigger_vector
    from unbackdoor.verbs.vet import vet


class _Package(ModuleType):
    """The package as a module in which a verb keeps its name when a room of the same name (`bench`) is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _PUBLIC and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        from importlib import import_module

        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'unbackdoor' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
