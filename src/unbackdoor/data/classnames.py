"""Zero-shot class names and prompt templates by name or file; the lists come from libraries that carry them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from unbackdoor.data.specs import read_names
from unbackdoor.errors import InputError

DEFAULT_TEMPLATES = ("a photo of a {}.",)
_ALIASES = {"imagenet": "imagenet1k", "gtsrb": "gtsrb", "tinyimagenet": "imagenet1k"}


def _normal(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def class_names(name: str) -> tuple[str, ...]:
    """Class names of a standard set (`imagenet-1k`, `cifar10`, `sun397`, `gtsrb`, `caltech101`, …) or of a file.

    Raises:
        InputError: neither a file nor a known set, or the library that carries it is not installed.
    """
    if Path(name).is_file():
        return read_names(Path(name))
    key = _ALIASES.get(_normal(name), _normal(name))
    if key == "imagenet1k":
        from open_clip import IMAGENET_CLASSNAMES

        return tuple(IMAGENET_CLASSNAMES)
    found = _benchmark_list("en_classnames.json", name, key)
    return tuple(str(x) for x in found)


def templates(name: str | None) -> tuple[str, ...]:
    """Prompt templates, each with one `{}`: a file, `openai-imagenet` (80), `simple` (7), or a standard set's own.

    Raises:
        InputError: unknown name, or a template without exactly one `{}`.
    """
    if name is None:
        return DEFAULT_TEMPLATES
    if Path(name).is_file():
        found: tuple[str, ...] = read_names(Path(name))
    elif _normal(name) in ("openaiimagenet", "simple"):
        import open_clip

        functions = (
            open_clip.SIMPLE_IMAGENET_TEMPLATES if _normal(name) == "simple" else open_clip.OPENAI_IMAGENET_TEMPLATES
        )
        found = tuple(function("{}") for function in functions)
    else:
        key = _ALIASES.get(_normal(name), _normal(name))
        listed = _benchmark_list("en_zeroshot_classification_templates.json", name, key)
        found = tuple(str(t).replace("{c}", "{}") for t in listed)
    for template in found:
        if template.count("{}") != 1:
            raise InputError(f"template {template!r} must hold exactly one {{}} for the class name")
    return found


def _benchmark_list(file: str, name: str, key: str) -> Any:
    """An entry of a list that clip-benchmark ships; read as data, its code is not imported."""
    spec = importlib.util.find_spec("clip_benchmark")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{name!r} is no file; named lists come from clip-benchmark: install unbackdoor[classnames]")
    path = Path(spec.submodule_search_locations[0]) / "datasets" / file
    entries = {_normal(k): v for k, v in json.loads(path.read_text(encoding="utf-8")).items()}
    for candidate in (key, f"vtab{key}"):
        if candidate in entries:
            return entries[candidate]
    raise InputError(f"{name!r} is neither a file nor a known list; known are {', '.join(sorted(entries))}")
