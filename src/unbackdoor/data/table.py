"""`csv:PATH`: a table with an image column and a caption or label column, separated by commas, tabs, `;` or `|`.

As images, its rows are held in memory, and rows that name one image with one label are its captions. As pairs, only
their places on disk are held (`open_parts`), and every row is a pair. The rules are in docs/how-to/data.md.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import BinaryIO

from unbackdoor.base.errors import InputError, first_line
from unbackdoor.base.untrusted import check_regular
from unbackdoor.data.captions import Captions, cell_captions, joined, sentences_of
from unbackdoor.data.offsets import Add, offset_table
from unbackdoor.data.omissions import Omissions, listed
from unbackdoor.data.paths import Images
from unbackdoor.data.source import Label, Source, SourceKind, Split, one_space, read_label
from unbackdoor.data.stream import Part, Parts

_IMAGE = (
    "image", "image_path", "img_path", "imagepath", "filepath", "file_path", "path", "filename", "file_name",
    "image_file", "image_name", "img_name", "img", "file",
)  # fmt: skip
# Names before numbers, where a table has both.
_LABEL = (
    "label_name", "class_name", "classname", "category_name", "label", "class", "category", "target", "label_id",
    "class_id", "classid", "category_id", "class_index",
)  # fmt: skip
_CAPTION = ("caption", "captions", "title", "text", "sentence", "sentences", "description", "comment")
_DELIMITERS = ",\t;|"
_LONGEST_LINE = 1 << 20
_LARGEST = 16 << 30


@dataclass(frozen=True)
class _Header:
    """How a table is separated, and the places of its columns."""

    delimiter: str
    image: int
    label: int | None
    caption: int | None


def open_source(rest: str) -> Source:
    """The source `csv:rest`; image paths are relative to the table's folder.

    Raises:
        InputError: no regular file, no text in UTF-8, no rows, or a header without an image column.
    """
    path = Path(rest)
    omissions, images = Omissions(), Images(path.parent)
    names, labels, captions = list[str](), list[Label](), list[Captions]()
    place: dict[tuple[str, Label], int] = {}
    try:
        header = _header(rest, path)
        with path.open("rb") as file:
            reader = csv.reader(_Lines(file, strict=True), delimiter=header.delimiter)
            next(reader)
            for row in reader:
                if not row:
                    continue
                name, label = _cell(row, header.image), read_label(_cell(row, header.label))
                texts = cell_captions(_cell(row, header.caption))
                known = place.get((name, label)) if header.caption is not None and name else None
                if known is not None:
                    captions[known] = joined((*sentences_of(captions[known]), *sentences_of(texts)))
                    continue
                place[name, label] = len(names)
                images.check(name, omissions)
                names.append(name)
                labels.append(label)
                captions.append(texts)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"csv:{rest}: cannot be read ({first_line(error)})") from None
    if not names:
        raise InputError(f"csv:{rest}: holds no rows under its header")
    split = Split(
        one_space(labels),
        lambda i: images.read(names[i]),
        captions if header.caption is not None else None,
        omissions.notes(),
        lambda i: names[i] or f"row {i + 1} without a path",
    )
    return Source({"": lambda: split})


_BLOCK, _HELD = 8192, 4


def open_parts(rest: str) -> Parts | None:
    """The pairs of `csv:rest`, rows and images read from disk as they are asked for; None without a caption column.

    Left out and counted: rows without an image path or a caption, and rows that are no CSV.

    Raises:
        InputError: as `open_source`.
    """
    path = Path(rest)
    try:
        if _header(rest, path).caption is None:
            return None
        table, skipped = offset_table(path, 2, partial(_scan, rest))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"csv:{rest}: cannot be read ({first_line(error)})") from None
    name = f"{path.name}|{path.stat().st_size}"
    images = Images(path.parent)
    return Parts([Part(name, len(table), partial(_TableReader, rest, images))], skipped, _BLOCK, _HELD)


class _TableReader:
    """Rows of a table by number; image paths are relative to the table's folder."""

    def __init__(self, rest: str, images: Images) -> None:
        self._path, self._images = Path(rest), images
        self._rows, self._header = offset_table(self._path, 2, partial(_scan, rest))[0], _header(rest, self._path)

    def picture(self, row: int) -> bytes:
        return self._images.read(self._cell(row, self._header.image))

    def captions(self, row: int) -> Captions:
        return cell_captions(self._cell(row, self._header.caption))

    def _cell(self, row: int, column: int | None) -> str:
        offset, size = self._rows[row].tolist()
        with self._path.open("rb") as file:
            file.seek(offset)
            text = file.read(size)
        return _cell(next(csv.reader(StringIO(_text(text), newline=""), delimiter=self._header.delimiter)), column)


def _header(rest: str, path: Path) -> _Header:
    """What the first line says, whatever separates it.

    Raises:
        InputError: no regular file, or no image column.
    """
    check_regular(path, _LARGEST)
    heads: dict[str, list[str]] = {}
    order = _DELIMITERS if path.suffix.lower() != ".tsv" else "\t,;|"
    for delimiter in order:
        with path.open("rb") as file:
            heads[delimiter] = next(csv.reader(_Lines(file, strict=True), delimiter=delimiter), [])

    def score(delimiter: str) -> tuple[bool, bool, int]:
        columns = [_plain(cell) for cell in heads[delimiter]]
        other = any(c in columns for c in (*_LABEL, *_CAPTION))
        return any(c in columns for c in _IMAGE), other, len(columns)

    best = max(order, key=score)
    columns = [_plain(cell) for cell in heads[best]]
    image, label, caption = (_place(rest, columns, names) for names in (_IMAGE, _LABEL, _CAPTION))
    if image is None:
        cells = ", ".join(repr(cell[:40]) for cell in heads[best][:8]) + (", …" if len(columns) > 8 else "")
        raise InputError(
            f"csv:{rest}: no image column; its first line should name one ({listed(_IMAGE)}), "
            f"but reads {cells or 'nothing'}"
        )
    return _Header(best, image, label, caption)


def _place(rest: str, columns: list[str], names: tuple[str, ...]) -> int | None:
    name = next((w for w in names if w in columns), None)
    if name is None:
        return None
    if columns.count(name) > 1:
        raise InputError(f"csv:{rest}: two columns are called {name}; rename one")
    return columns.index(name)


def _plain(cell: str) -> str:
    """A column's name without case and with one kind of space."""
    return re.sub(r"[\s_-]+", "_", cell.strip().lower())


def _cell(row: list[str], column: int | None) -> str:
    return row[column].strip() if column is not None and column < len(row) else ""


def _scan(rest: str, path: Path, add: Add) -> int:
    """Offset and size of every row with an image and a caption; returns how many were left out."""
    header = _header(rest, path)
    skipped = 0
    with path.open("rb") as file:
        lines = _Lines(file)
        reader = csv.reader(lines, delimiter=header.delimiter)
        next(reader)
        while True:
            begin = lines.end
            try:
                row = next(reader)
            except StopIteration:
                return skipped
            except csv.Error:
                row = [""]
            if _cell(row, header.image) and _cell(row, header.caption):
                add(begin, lines.end - begin)
            elif row:  # an empty line is no row
                skipped += 1


class _Lines:
    """Lines of text, with the place in the file where the last one ended.

    Args:
        strict: fail at bytes that are no UTF-8, instead of replacing them.
    """

    def __init__(self, file: BinaryIO, *, strict: bool = False) -> None:
        self._file, self._strict, self.end = file, strict, 0

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(_LONGEST_LINE + 1):
            self.end += len(line)
            if len(line) > _LONGEST_LINE:
                raise csv.Error(f"a line of more than {_LONGEST_LINE:,} bytes")
            yield _text(line, "strict" if self._strict else "replace")


def _text(line: bytes, errors: str = "replace") -> str:
    # Before Python 3.11 the reader gives up at a NUL.
    return line.decode("utf-8", errors=errors).lstrip("\ufeff").replace("\0", "\ufffd")


KIND = SourceKind(open_source, lambda rest, _: open_parts(rest))
