"""From what a user named to models: a reference stays one; folders of models, globs and lists become several."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from unbackdoor.base.errors import InputError
from unbackdoor.base.untrusted import is_there, read_text
from unbackdoor.clip.load import offline
from unbackdoor.clip.published import is_folder
from unbackdoor.vetting.files import ADAPTER, WEIGHTS, is_model

_MOST = 10_000
_ONE_MODEL = (".safetensors",)  # a file that is a model by itself: a difference from a base


def expanded(texts: Sequence[str]) -> list[str]:
    """References of models, each once, in the order in which they were named.

    Args:
        texts: references; folders whose folders hold models; globs; `@FILE`, which names one of these on each line.

    Raises:
        InputError: a list that cannot be read or names a model on the network, or a glob that matches nothing.
    """
    models: dict[str, None] = {}
    for text in texts:
        for part in _lines(text[1:]) if text.startswith("@") else [text]:
            models.update(dict.fromkeys(_models(part)))
            if len(models) > _MOST:
                raise InputError(f"{text}: names more than {_MOST:,} models; vet them in parts")
    return list(models)


def _lines(file: str) -> list[str]:
    path = Path(file)
    lines = [line.strip() for line in read_text(path).splitlines()]
    named = [line for line in lines if line and not line.startswith("#")]
    if not named:
        raise InputError(f"{file}: names no model; write one on each line")
    for number, line in enumerate(named, 1):
        if not (_is_pattern(line) or is_folder(line)):
            offline(line, f"{file}, model {number}", "name it on the command line")
    return named


def _is_pattern(text: str) -> bool:
    return any(c in text for c in "*?[") and not is_there(Path(text))


def _models(text: str) -> list[str]:
    if _is_pattern(text):
        matches = [Path(match) for match in sorted(glob.glob(text))]
        models = [m for m in matches if m.is_dir() or (m.suffix in _ONE_MODEL and m.is_file())]
        if not models:
            raise InputError(f"{text}: matches no model folder and no .safetensors file")
        return [_reference(path) for path in models]
    path = Path(text)
    if not is_folder(path) or is_model(path) or _has_weights(path):
        return [_reference(path)] if is_folder(path) else [text]
    within = [inner for inner in sorted(path.iterdir()) if inner.is_dir() and (is_model(inner) or _has_weights(inner))]
    return [_reference(inner) for inner in within] or [text]


def _has_weights(folder: Path) -> bool:
    """Whether weights lie in it, although no configuration does: a row that says so, and no folder of models."""
    return any(path.suffix in WEIGHTS for path in folder.iterdir() if path.is_file())


def _reference(path: Path) -> str:
    """How a folder is named: an adapter by its scheme."""
    has = {name: (path / name).is_file() for name in (ADAPTER, "config.json", "open_clip_config.json")}
    return f"adapter:{path}" if has.pop(ADAPTER) and not any(has.values()) else str(path)
