"""`parquet:PATH`: a file or a folder of Parquet files in the Hugging Face image schema."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unbackdoor.data.source import Picture, Source, Split
from unbackdoor.errors import InputError

_IMAGE = ("image", "img", "jpg", "png")
_LABEL = ("label", "labels", "fine_label", "class")
_CAPTION = ("caption", "text", "captions")


def open_source(rest: str) -> Source:
    """The source `parquet:rest`; in a folder, files are grouped into splits by the word they begin with."""
    path = Path(rest)
    if path.is_file():
        return Source({"": partial(_read, [path])}, _class_names(path))
    if not path.is_dir():
        raise InputError(f"parquet:{rest}: no such file or folder")
    groups: dict[str, list[Path]] = {}
    for file in sorted(path.glob("**/*.parquet")):
        name = re.match(r"[A-Za-z_]+", file.stem)
        groups.setdefault(name.group(0).rstrip("_") if name else "", []).append(file)
    if not groups:
        raise InputError(f"parquet:{rest}: the folder holds no .parquet file")
    classes = _class_names(next(iter(groups.values()))[0])
    return Source({name: partial(_read, files) for name, files in groups.items()}, classes)


def _class_names(path: Path) -> tuple[str, ...]:
    metadata = _schema(path).metadata or {}
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        column: dict[str, Any] = next((features[c] for c in _LABEL if c in features), {})
        return tuple(str(name) for name in column.get("names") or ())
    except (ValueError, AttributeError):
        return ()


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None


def _column(path: Path, names: Sequence[str], wanted: tuple[str, ...]) -> str | None:
    return next((c for c in wanted if c in names), None)


def _read(files: list[Path]) -> Split:
    names = _schema(files[0]).names
    image, label, caption = (_column(files[0], names, w) for w in (_IMAGE, _LABEL, _CAPTION))
    if image is None:
        raise InputError(f"{files[0]}: no image column; expected one of {', '.join(_IMAGE)}, found {', '.join(names)}")
    columns = [c for c in (image, label, caption) if c]
    try:
        table = pa.concat_tables([pq.read_table(file, columns=columns) for file in files])
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{files[0]}: cannot be read ({str(error).splitlines()[0]})") from None
    pictures = table.column(image)
    base = files[0].parent

    def picture(i: int) -> Picture:
        value: Any = pictures[i].as_py()
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str):
            return (base / value).read_bytes()
        if not isinstance(value, bytes):
            raise OSError("no bytes")
        return value

    labels = table.column(label).to_pylist() if label else [None] * table.num_rows
    captions = table.column(caption).to_pylist() if caption else None
    if captions is not None:
        captions = [str(c[0] if isinstance(c, list) and c else c or "") for c in captions]
    return Split(labels, picture, captions)
