"""`hf:NAME`: a data set of the Hugging Face hub, fetched only because the user named it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from unbackdoor.base.errors import InputError
from unbackdoor.data.columns import CAPTIONS
from unbackdoor.data.source import Picture, Source, SourceKind, Split

_LABEL = ("label", "labels", "fine_label", "class")


def open_source(rest: str) -> Source:
    """The source `hf:rest`; `hf:NAME/CONFIG` is not split: use `hf:NAME@CONFIG` for a configuration."""
    try:
        import datasets
    except ImportError:
        raise InputError(f"hf:{rest} needs the datasets library; install unbackdoor[hf]") from None
    name, _, config = rest.partition("@")
    try:
        parts = datasets.load_dataset(name, config or None)
    except Exception as error:  # the library raises many kinds; the user needs one line
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise InputError(f"hf:{rest}: cannot be loaded ({reason})") from None
    first = next(iter(parts.values()))
    image = next((k for k, f in first.features.items() if isinstance(f, datasets.Image)), None)
    if image is None:
        raise InputError(f"hf:{rest}: no image column among {', '.join(first.features)}")
    label = next((k for k, f in first.features.items() if isinstance(f, datasets.ClassLabel)), None)
    classes = tuple(first.features[label].names) if label else ()
    if label is None:
        # Plain numbers or names; names are gathered over all splits, so that one lacking in a split shifts no index.
        label = next((k for k in _LABEL if k in first.features), None)
        if label and first.features[label].dtype in ("string", "large_string"):
            classes = tuple(sorted({x for part in parts.values() for x in part.unique(label)} - {None}))
    splits = {str(k): partial(_read, part, image, label) for k, part in parts.items()}
    return Source(splits, classes)


def _read(part: Any, image: str, label: str | None) -> Split:
    import datasets

    raw = part.cast_column(image, datasets.Image(decode=False))

    def picture(i: int) -> Picture:
        value = raw[i][image]
        if not value:
            raise OSError("no image")
        return bytes(value["bytes"]) if value.get("bytes") else Path(value["path"]).read_bytes()

    labels = part[label] if label else [None] * len(part)
    caption = next((c for c in CAPTIONS if _is_text(part.features.get(c))), None)
    return Split(list(labels), picture, [str(c) for c in part[caption]] if caption else None)


def _is_text(feature: Any) -> bool:
    return getattr(feature, "dtype", None) in ("string", "large_string")


KIND = SourceKind(open_source)
