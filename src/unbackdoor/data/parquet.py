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

from unbackdoor.data.captions import Captions, read_captions
from unbackdoor.data.source import Picture, Source, Split
from unbackdoor.data.stream import Part, Parts
from unbackdoor.errors import InputError

_IMAGE = ("image", "img", "jpg", "png")
_LABEL = ("label", "labels", "fine_label", "class")
_CAPTION = ("caption", "text", "captions")
_SPLITS = ("train", "test", "validation", "valid", "val")


def open_source(rest: str) -> Source:
    """The source `parquet:rest`.

    In a folder, a file belongs to the split that its name begins with (train-00000-of-00002), else to the one that its
    own folder is called (default/train/0000.parquet). Files that all share another name are one unnamed split.
    """
    groups = _files(rest)
    classes = _class_names([file for files in groups.values() for file in files])
    return Source({name: partial(_read, files) for name, files in groups.items()}, classes)


def _files(rest: str) -> dict[str, list[Path]]:
    """Files of every split; one unnamed split holds them all where no name speaks of splits."""
    path = Path(rest)
    if path.is_file():
        return {"": [path]}
    if not path.is_dir():
        raise InputError(f"parquet:{rest}: no such file or folder")
    groups: dict[str, list[Path]] = {}
    for file in sorted(path.glob("**/*.parquet")):
        groups.setdefault(_split_name(file), []).append(file)
    if not groups:
        raise InputError(f"parquet:{rest}: the folder holds no .parquet file")
    if len(groups) == 1 and not set(groups) & set(_SPLITS):
        groups = {"": [file for files in groups.values() for file in files]}
    return groups


def _split_name(file: Path) -> str:
    known = re.match(f"({'|'.join(_SPLITS)})(?![a-z])", file.stem.lower())
    if known:
        return known.group(1)
    if file.parent.name.lower() in _SPLITS:
        return file.parent.name.lower()
    name = re.match(r"[A-Za-z_]+", file.stem)
    return name.group(0).rstrip("_") if name else ""


def _class_names(files: list[Path]) -> tuple[str, ...]:
    """Names in the schema; else the string labels of all splits, so that a class lacking in one shifts no index."""
    return _schema_names(files[0]) or _label_names(files)


def _label_names(files: list[Path]) -> tuple[str, ...]:
    found: set[str] = set()
    for file in files:
        schema = _schema(file)
        label = _column(file, schema.names, _LABEL)
        if label is None or not (
            pa.types.is_string(schema.field(label).type) or pa.types.is_large_string(schema.field(label).type)
        ):
            continue
        try:
            found |= set(pq.read_table(file, columns=[label]).column(label).unique().to_pylist()) - {None}
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{file}: cannot be read ({str(error).splitlines()[0]})") from None
    return tuple(sorted(found))


def _schema_names(path: Path) -> tuple[str, ...]:
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
        return _picture(pictures[i].as_py(), base)

    labels = table.column(label).to_pylist() if label else [None] * table.num_rows
    captions = table.column(caption).to_pylist() if caption else None
    if captions is not None:
        captions = [read_captions(c) for c in captions]
    return Split(labels, picture, captions)


def _picture(value: Any, base: Path) -> Picture:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        return (base / value).read_bytes()
    if not isinstance(value, bytes):
        raise OSError("no bytes")
    return value


def open_parts(rest: str, split: str | None) -> Parts | None:
    """The pairs of `parquet:rest` by row groups, which are read whole and held a few at a time.

    None without a caption column. Rows without image or caption are left out and counted when they come up. Files
    written with small row groups (a thousand rows, say) take little memory and mix well.

    Args:
        split: a split's name, taken where the source has it; otherwise everything is read.

    Raises:
        InputError: no such file, or unreadable.
    """
    groups = _files(rest)
    files = groups[split] if split in groups else [file for found in groups.values() for file in found]
    names = _schema(files[0]).names
    image, caption = (_column(files[0], names, w) for w in (_IMAGE, _CAPTION))
    if image is None or caption is None:
        return None
    parts = []
    for file in files:
        _schema(file)
        held = pq.ParquetFile(file).metadata
        for group in range(held.num_row_groups):
            name = f"{file.name}|{file.stat().st_size}|{group}"
            opener = partial(_GroupReader, file, group, image, caption)
            parts.append(Part(name, held.row_group(group).num_rows, opener))
    return Parts(parts, 0, max((part.size for part in parts), default=1), _HELD)


_HELD = 10  # row groups in memory: those of a window, and the ends of its neighbours


class _GroupReader:
    """One row group, read on opening."""

    def __init__(self, file: Path, group: int, image: str, caption: str) -> None:
        table = pq.ParquetFile(file).read_row_group(group, columns=[image, caption])
        self._images, self._captions, self._base = table.column(image), table.column(caption), file.parent

    def picture(self, row: int) -> Picture:
        return _picture(self._images[row].as_py(), self._base)

    def captions(self, row: int) -> Captions:
        return read_captions(self._captions[row].as_py())
