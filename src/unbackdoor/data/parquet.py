"""`parquet:PATH`: a file or a folder of Parquet files, above all in the Hugging Face image schema.

The page headers say what a file becomes in memory (`data.pages`), and are checked before it is read, a few rows at a
time. The rules for columns, splits and class names are in docs/how-to/data.md.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unbackdoor.base.errors import InputError, first_line
from unbackdoor.data.captions import Captions, read_captions
from unbackdoor.data.classes import merged, positions
from unbackdoor.data.columns import Columns, choose_columns, class_names, is_text
from unbackdoor.data.footer import Group, read_footer
from unbackdoor.data.names import all_numbers, number_of
from unbackdoor.data.omissions import Omissions
from unbackdoor.data.pages import Cost, chunk_cost
from unbackdoor.data.paths import Images
from unbackdoor.data.source import Label, Picture, Source, SourceKind, Split, read_label
from unbackdoor.data.splitnames import SPLITS, split_name, split_prefix
from unbackdoor.data.stream import Part, Parts
from unbackdoor.data.walk import files_ending

_BUDGET = 64 << 20  # bytes of the rows that are unpacked together
_LARGEST_GROUP = 512 << 20  # of pairs, which are unpacked a row group at a time
_HELD_BYTES = 1 << 30
_FREE_BYTES, _MOST_PACKED = 256 << 20, 64  # unpacked bytes of a column: these, and so many for a byte that is there
_LONGEST_TEXT = 1 << 16  # characters of a label or a caption
_DAMAGE = (pa.ArrowException, OSError, ValueError)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Arrow's complaints about a damaged file, in a line that names the file."""
    try:
        yield
    except InputError:
        raise
    except (*_DAMAGE, MemoryError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({first_line(error)})") from None


@dataclass(frozen=True)
class _File:
    """A file whose footer was read, and the columns that are used of it; `metadata` is Arrow's own, to be handed on."""

    path: Path
    groups: tuple[Group, ...]
    metadata: pq.FileMetaData
    schema: pa.Schema
    columns: Columns
    classes: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Rows of all groups."""
        return sum(group.rows for group in self.groups)

    def open(self) -> pq.ParquetFile:
        """The file, without reading its footer again."""
        return pq.ParquetFile(self.path, metadata=self.metadata, buffer_size=1 << 20)

    def cost(self, group: int, column: str) -> Cost:
        """What a column becomes in a row group; largest values of its parts together.

        Raises:
            InputError: more than can be, or than a sound file would have.
        """
        own = [chunk for chunk in self.groups[group].chunks if chunk.path[0] == column]
        if not own:  # Arrow's schema and the footer's own differ
            raise InputError(f"{self.path}: has no pages for column {column!r}; the file is damaged")
        costs, packed = [chunk_cost(self.path, chunk) for chunk in own], sum(chunk.packed for chunk in own)
        total = sum(cost.total for cost in costs)
        if total > _FREE_BYTES + _MOST_PACKED * packed:
            raise InputError(f"{self.path}: column {column!r} packs {total >> 20} MiB into {packed:,} bytes; too much")
        return Cost(max((cost.values for cost in costs), default=0), sum(cost.largest for cost in costs), total)

    def batches(self, group: int, column: str) -> Iterator[pa.Array]:
        """A column of a row group, a few rows at a time; at most twice `_BUDGET` bytes or one row.

        Raises:
            InputError: as `cost`; a list of more than `_LARGEST_GROUP`.
        """
        cost = self.cost(group, column)
        kind = self.schema.field(column).type
        # One row may be a list of all values there are.
        if pa.types.is_nested(kind) and not pa.types.is_struct(kind) and cost.total > _LARGEST_GROUP:
            raise InputError(f"{self.path}: column {column!r} unpacks to {cost.total >> 20} MiB; that is too much")
        rows = max(1, min(4096, _BUDGET // max(1, cost.largest)))
        with _named(self.path):
            for batch in self.open().iter_batches(rows, row_groups=[group], columns=[column], use_threads=False):
                yield batch.column(0)


def open_source(rest: str) -> Source:
    """The source `parquet:rest`.

    In a folder, a file belongs to the split that its name begins with (train-00000-of-00002), else to the one that its
    own folder is called (default/train/0000.parquet). Files that all share another name are one unnamed split.

    Raises:
        InputError: no such file, unreadable, no image column, or class names that cannot be one list.
    """
    groups = {name: [_opened(path) for path in paths] for name, paths in _files(rest).items()}
    # Training's names and spellings come first.
    files = [file for name in sorted(groups, key=lambda name: name != "train") for file in groups[name]]
    classes = _all_classes(files)
    return Source({name: partial(_read, group, classes) for name, group in groups.items()}, classes)


def _all_classes(files: Sequence[_File]) -> tuple[str, ...]:
    """The class names of all files, so that a class lacking in one shifts no number; () where labels are numbers.

    Raises:
        InputError: some have names and others bare numbers, which nothing says the meaning of.
    """
    words: set[str] = set()
    for file in files:
        words |= {label for label in _labels(file, ()) if isinstance(label, str)} if _has_names(file) else set()
    lists = list(dict.fromkeys(file.classes for file in files if file.classes))
    if not lists and all_numbers(words):  # texts such as "7" and "3.0"
        return ()
    bare = [f for f in files if f.columns.label and not f.classes and not _has_names(f) and f.rows]
    if bare and (lists or words):
        raise InputError(
            f"{bare[0].path}: its labels are numbers without names, and those of other files have names; write the "
            "names into its schema, or give the files apart"
        )
    return lists[0] if len(lists) == 1 and not words else merged([*lists, sorted(words)])


def _files(rest: str) -> dict[str, list[Path]]:
    """Files of every split; one unnamed split holds them all where no name speaks of splits."""
    path = Path(rest)
    if path.is_file():
        return {"": [path]}
    if not path.is_dir():
        raise InputError(f"parquet:{rest}: no such file or folder")
    groups: dict[str, list[Path]] = {}
    for file in files_ending(path, ".parquet"):
        groups.setdefault(_split_of(file), []).append(file)
    if not groups:
        if files_ending(path, ".arrow"):
            raise InputError(
                f"parquet:{rest}: holds Arrow files, as save_to_disk of the datasets library writes them; write it as "
                "Parquet: datasets.load_from_disk(FOLDER)['train'].to_parquet('train.parquet'), and so for each split"
            )
        raise InputError(f"parquet:{rest}: the folder holds no .parquet file")
    if len(groups) == 1 and not set(groups) & set(SPLITS):
        groups = {"": [file for files in groups.values() for file in files]}
    return groups


def _split_of(file: Path) -> str:
    known = split_prefix(file.stem) or split_name(file.parent.name)
    if known:
        return known
    name = re.match(r"[A-Za-z_]+", file.stem)
    return name.group(0).rstrip("_") if name else ""


def _opened(path: Path) -> _File:
    groups = read_footer(path)
    with _named(path), pq.ParquetFile(path) as file:
        metadata, schema = file.metadata, file.schema_arrow
    columns = choose_columns(path, schema)
    return _File(path, groups, metadata, schema, columns, class_names(path, schema, columns.label))


def _has_names(file: _File) -> bool:
    return file.columns.label is not None and is_text(file.schema.field(file.columns.label).type)


def _labels(file: _File, classes: tuple[str, ...]) -> list[Label]:
    """Labels of a file: names, or numbers that index `classes` where the file has names for them."""
    column = file.columns.label
    if column is None:
        return [None] * file.rows
    table: Sequence[int] = range(len(file.classes))
    if file.classes and classes and file.classes != classes:
        table = positions(file.classes, classes, str(file.path))
    labels: list[Label] = []
    for value in _values(file, column):
        if isinstance(value, str):
            labels.append(None if read_label(value) is None else value.strip())
            continue
        label = _number(file.path, value)
        if label is not None and file.classes and label >= len(file.classes):
            raise InputError(f"{file.path}: label {label} has no name; its schema names {len(file.classes)}")
        labels.append(table[label] if label is not None and file.classes else label)
    return labels


def _number(path: Path, value: Any) -> int | None:
    """A class number, None where it is unknown: null, negative, not a number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and not value.is_integer():  # infinity is none either
        raise InputError(f"{path}: label {value} is no class number; labels must be whole numbers or names")
    return int(value) if value >= 0 else None


def _values(file: _File, column: str) -> Iterator[Any]:
    """A column as Python's values.

    Raises:
        InputError: as `_File.batches`; a text that is too long.
    """
    for group in range(len(file.groups)):
        for batch in file.batches(group, column):
            with _named(file.path):
                if is_text(batch.type) and pa.types.is_dictionary(batch.type):
                    batch = batch.cast(batch.type.value_type)
                if is_text(batch.type) and (pc.max(pc.binary_length(batch)).as_py() or 0) > _LONGEST_TEXT:
                    what = f"column {column!r} holds a text of more than {_LONGEST_TEXT:,} bytes"
                    raise InputError(f"{file.path}: {what}")
                values = batch.to_pylist()
            yield from values


def _read(files: list[_File], classes: tuple[str, ...]) -> Split:
    labels: list[Label] = []
    captions: list[Captions] = []
    captioned = all(file.columns.caption for file in files)
    readers, omissions = list[_Reader](), Omissions()
    starts = [0]
    for file in files:
        if (file.columns.label is None) != (files[0].columns.label is None):
            raise InputError(f"{file.path}: has another label column than {files[0].path.name}; write both alike")
        labels += _labels(file, classes)
        if captioned:
            captions += map(read_captions, _values(file, file.columns.caption or ""))
        readers.append(_Reader(file))
        starts.append(starts[-1] + file.rows)
    labels = _one_kind(labels, classes)

    def place(i: int) -> tuple[int, int]:
        which = bisect_right(starts, i) - 1
        return which, i - starts[which]

    def picture(i: int) -> Picture:
        which, row = place(i)
        return readers[which].picture(row)

    def name(i: int) -> str:
        which, row = place(i)
        return f"{files[which].path.name} row {row}"

    return Split(labels, picture, captions if captioned else None, omissions.notes(), name)


def _one_kind(labels: list[Label], classes: tuple[str, ...]) -> list[Label]:
    """Names where there are class names, and numbers where there are none."""
    if not classes:
        return [number_of(label) if isinstance(label, str) else label for label in labels]
    if any(isinstance(label, str) for label in labels):
        return [classes[label] if isinstance(label, int) else label for label in labels]
    return labels


class _Reader:
    """Pictures of a file by their rows, unpacked a few rows at a time; quickest in the order of the rows."""

    def __init__(self, file: _File) -> None:
        self._file, self._images = file, Images(file.path.parent)
        self._ends: list[int] = []
        rows = 0
        for group in range(len(file.groups)):
            rows += file.groups[group].rows
            self._ends.append(rows)
        self._lock = Lock()
        self._group = -1
        self._batches: Iterator[pa.Array] = iter(())
        self._recent: list[tuple[int, pa.Array]] = []  # the last two, with their first rows
        self._next = 0  # first row of the batch to come
        self._broken: dict[int, str] = {}

    def picture(self, row: int) -> Picture:
        """Bytes of the image of a row; several threads may ask.

        Raises:
            InputError: it cannot be read.
        """
        with self._lock:
            value = self._value(row)
        return _picture(value, self._images)

    def _value(self, row: int) -> Any:
        for first, batch in self._recent:
            if first <= row < first + len(batch):
                return batch[row - first].as_py()
        group = bisect_right(self._ends, row)
        if group in self._broken:
            raise InputError(self._broken[group])
        if group != self._group or row < self._next:
            self._group, self._next = group, self._ends[group - 1] if group else 0
            self._batches = self._file.batches(group, self._file.columns.image)
        try:
            for batch in self._batches:
                first, self._next = self._next, self._next + len(batch)
                self._recent = [*self._recent[-1:], (first, batch)]
                if row < self._next:
                    return batch[row - first].as_py()
        except InputError as error:
            self._broken[group] = str(error)
            raise
        raise InputError(f"{self._file.path}: row {row} is missing")


def _picture(value: Any, images: Images) -> Picture:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        return images.read(value)
    if not isinstance(value, bytes):
        raise InputError("no bytes")
    return value


def open_parts(rest: str, split: str | None) -> Parts | None:
    """The pairs of `parquet:rest` by row groups, which are read whole and held a few at a time.

    None without a caption column. Rows without image or caption are left out and counted when they come up. Files
    written with small row groups (a thousand rows, say) take little memory and mix well.

    Args:
        split: a split's name; where no file's name speaks of splits, everything is read.

    Raises:
        InputError: no such file or split, unreadable, or a row group that unpacks to more than 512 MiB.
    """
    groups = _files(rest)
    split = split_name(split or "") or split
    if split is not None and split not in groups and set(groups) & set(SPLITS):
        raise InputError(
            f"parquet:{rest}: no split {split!r}; it has {', '.join(groups)}; append #{next(iter(groups))}"
        )
    paths = groups[split] if split in groups else [path for some in groups.values() for path in some]
    files = [_opened(path) for path in paths]
    if any(file.columns.caption is None for file in files):
        return None
    parts, largest = [], 1
    for file in files:
        for group in range(len(file.groups)):
            name = f"{file.path.name}|{file.path.stat().st_size}|{group}"
            parts.append(Part(name, file.groups[group].rows, partial(_GroupReader, file, group)))
            largest = max(largest, _checked_total(file, group))
    held = max(1, min(_HELD, _HELD_BYTES // largest))
    return Parts(parts, 0, max((part.size for part in parts), default=1), held)


_HELD = 10  # row groups in memory: those of a window, and the ends of its neighbours


def _checked_total(file: _File, group: int) -> int:
    """Bytes of the pairs of a row group.

    Raises:
        InputError: more than `_LARGEST_GROUP`.
    """
    assert file.columns.caption is not None
    total = sum(file.cost(group, column).total for column in (file.columns.image, file.columns.caption))
    if total > _LARGEST_GROUP:
        raise InputError(
            f"{file.path}: row group {group} unpacks to {total >> 20} MiB; write row groups of a thousand rows"
        )
    return total


class _GroupReader:
    """One row group, read on opening."""

    def __init__(self, file: _File, group: int) -> None:
        assert file.columns.caption is not None
        self._pictures = pa.chunked_array(
            list(file.batches(group, file.columns.image)), file.schema.field(file.columns.image).type
        )
        self._sentences = pa.chunked_array(
            list(file.batches(group, file.columns.caption)), file.schema.field(file.columns.caption).type
        )
        self._images = Images(file.path.parent)

    def picture(self, row: int) -> Picture:
        return _picture(self._pictures[row].as_py(), self._images)

    def captions(self, row: int) -> Captions:
        return read_captions(self._sentences[row].as_py())


KIND = SourceKind(open_source, open_parts, splits=True)
