"""Sentences about classes: synonyms set into templates, and written descriptions from a `captions.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unbackdoor.base.errors import InputError


@dataclass(frozen=True)
class ClassText:
    """What can be said of one class: its names (one at least) and whole sentences."""

    names: tuple[str, ...]
    descriptions: tuple[str, ...] = ()

    def sentence(self, templates: Sequence[str], draws: tuple[float, float]) -> str:
        """One of them by two numbers in [0, 1): half of the time a description, where there are any."""
        kind, which = draws
        if self.descriptions and kind < 0.5:
            return self.descriptions[int(which * len(self.descriptions))]
        name, template = divmod(int(which * len(self.names) * len(templates)), len(templates))
        return templates[template].replace("{}", self.names[name])


def read_class_texts(path: Path, classes: Sequence[str]) -> tuple[ClassText, ...]:
    """The texts of `classes`, in their order; a class that the file lacks has its name alone.

    The file is a JSON object, class name → `{"synonyms": […], "descriptions": […]}`, or → a list of descriptions.

    Raises:
        InputError: unreadable, of another form, or it speaks of none of the classes.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as captions ({str(error).splitlines()[0]})") from None
    if not isinstance(entries, dict) or not set(entries) & set(classes):
        raise InputError(f"{path}: speaks of none of the {len(classes)} classes; its keys must be class names")
    return tuple(_one(path, name, entries.get(name, {})) for name in classes)


def _one(path: Path, name: str, entry: object) -> ClassText:
    entry = {"descriptions": entry} if isinstance(entry, list) else entry
    names, descriptions = (_sentences(path, name, entry, key) for key in ("synonyms", "descriptions"))
    return ClassText(names or (name.replace("_", " "),), descriptions)


def _sentences(path: Path, name: str, entry: object, key: str) -> tuple[str, ...]:
    texts = entry.get(key) or [] if isinstance(entry, dict) else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{path}: class {name!r}: expected a list of sentences under {key}")
    return tuple(" ".join(text.split()) for text in texts if text.strip())
