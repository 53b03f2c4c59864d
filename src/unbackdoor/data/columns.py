"""Which columns of a Parquet file are the image, the label and the caption, and what its schema calls the classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from unbackdoor.base.errors import InputError
from unbackdoor.base.untrusted import parse_json
from unbackdoor.data.omissions import listed

_IMAGE = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "image_bytes", "pixels")
_PATH = ("image", "img", "image_path", "img_path", "filepath", "file_path", "path", "filename", "file_name")
_NAMES = ("label_name", "class_name", "label_names", "category_name")  # texts, where numbers stand beside them
_LABEL = ("label", "labels", "fine_label", "class", "category", "target", "cls", *_NAMES, "label_id", "class_id")
# The last is what shards become whose captions lie in .txt files, as those of CC3M on the hub.
CAPTIONS = ("caption", "captions", "text", "texts", "sentence", "sentences", "title", "description", "txt")
_MOST_CLASSES = 30_000


@dataclass(frozen=True)
class Columns:
    """Names of columns."""

    image: str
    label: str | None
    caption: str | None


def choose_columns(path: Path, schema: pa.Schema) -> Columns:
    """The columns to read: as the schema of Hugging Face types them, else by their types and names.

    Raises:
        InputError: two columns of one name, no image column, several that could be it, or a label column of neither
            numbers nor names.
    """
    twice = [name for name, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise InputError(f"{path}: has two columns {twice[0]!r}; rename one")
    features = _features(path, schema)
    label = _label(path, schema, features)
    caption = next((c for c in CAPTIONS if c in schema.names and _is_caption(schema.field(c).type)), None)
    if label is not None:
        kind = schema.field(label).type
        known = is_text(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        if not known and not pa.types.is_null(kind):
            raise InputError(f"{path}: column {label!r} holds {kind}; labels must be whole numbers or names")
    return Columns(_image(path, schema, features), label, caption)


def class_names(path: Path, schema: pa.Schema, label: str | None) -> tuple[str, ...]:
    """Names that the schema gives the label's numbers, () without.

    Raises:
        InputError: they are no list of names, or more than any set has.
    """
    feature = _features(path, schema).get(label) if label else None
    names = feature.get("names") if isinstance(feature, dict) else None
    if names is None or is_text(schema.field(label).type):
        return ()
    if not isinstance(names, list) or not all(isinstance(n, str | int) for n in names) or len(names) > _MOST_CLASSES:
        raise InputError(f"{path}: the class names of {label!r} in its schema are no list of at most {_MOST_CLASSES:,}")
    return tuple(str(name) for name in names)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds texts, in whatever form."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(is_kind(kind) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _features(path: Path, schema: pa.Schema) -> dict[str, Any]:
    """What Hugging Face's library wrote of the columns, {} where it did not."""
    raw = (schema.metadata or {}).get(b"huggingface")
    features: Any = parse_json(raw, f"{path}: its schema") if raw else {}
    for key in ("info", "features"):
        features = features.get(key) if isinstance(features, dict) else None
    return features if isinstance(features, dict) else {}


def _typed(schema: pa.Schema, features: dict[str, Any], kind: str) -> list[str]:
    return [n for n in schema.names if isinstance(features.get(n), dict) and features[n].get("_type") == kind]


def _label(path: Path, schema: pa.Schema, features: dict[str, Any]) -> str | None:
    typed = _typed(schema, features, "ClassLabel")
    named = next((c for c in _LABEL if c in typed), None)
    if named or len(typed) == 1:
        return named or typed[0]
    if typed:
        raise InputError(f"{path}: the columns {listed(typed)} are labels each; rename the right one to label")
    texts = [c for c in (*_LABEL, *_NAMES) if c in schema.names and is_text(schema.field(c).type)]
    return next(iter(texts), None) or next((c for c in _LABEL if c in schema.names), None)


def _image(path: Path, schema: pa.Schema, features: dict[str, Any]) -> str:
    kinds = {name: schema.field(name).type for name in schema.names}
    structs = [n for n, kind in kinds.items() if pa.types.is_struct(kind) and {f.name for f in kind} >= {"bytes"}]
    raw = [n for n in _IMAGE if n in kinds and _is_bytes(kinds[n])]
    paths = [n for n in _PATH if n in kinds and is_text(kinds[n])]
    for candidates in (_typed(schema, features, "Image"), structs, raw, paths[:1]):
        usable = [n for n in candidates if pa.types.is_struct(kinds[n]) or _is_bytes(kinds[n]) or is_text(kinds[n])]
        if len(usable) > 1 and "image" not in usable:
            raise InputError(f"{path}: the columns {listed(usable)} are images each; rename the right one to image")
        if usable:
            return "image" if "image" in usable else usable[0]
    raise InputError(
        f"{path}: no image column; expected bytes or {{bytes, path}} called {listed(_IMAGE)}, "
        f"found {listed_all(schema)}"
    )


def listed_all(schema: pa.Schema) -> str:
    """Columns with their types, for people."""
    return listed([f"{name} ({str(schema.field(name).type)[:40]})" for name in dict.fromkeys(schema.names)][:8])


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(is_kind(kind) for is_kind in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))


def _is_caption(kind: pa.DataType) -> bool:
    """Texts, or lists of texts or of objects that hold one."""
    lists: Sequence[Any] = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if any(is_list(kind) for is_list in lists):
        return is_text(kind.value_type) or pa.types.is_struct(kind.value_type)
    return is_text(kind)
