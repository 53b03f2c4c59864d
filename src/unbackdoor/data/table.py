"""`csv:PATH`: a table with an image column and a caption or label column; .tsv is read with tabs.

As images, its rows are held in memory; as pairs, only where they lie on disk is known (`open_parts`).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import partial
from io import StringIO
from pathlib import Path
from typing import BinaryIO

from unbackdoor.data.offsets import Add, offset_table
from unbackdoor.data.source import Picture, Source, Split, one_space, read_label
from unbackdoor.data.stream import Part, Parts
from unbackdoor.errors import InputError

_IMAGE = ("image", "path", "filepath", "file", "filename")
_LABEL = ("label", "class")
_CAPTION = ("caption", "title", "text")


def open_source(rest: str) -> Source:
    """The source `csv:rest`; image paths are relative to the table's folder."""
    path = Path(rest)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            # Before Python 3.11 the reader gives up at a NUL; as another odd character it spoils its own row alone.
            lines = (line.replace("\0", "\ufffd") for line in file)
            rows = list(csv.DictReader(lines, delimiter=_delimiter(path)))
            header = list(rows[0]) if rows else []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"csv:{rest}: cannot be read ({error})") from None
    if not rows:
        raise InputError(f"csv:{rest}: holds no rows under its header")
    image, label, caption = (next((c for c in w if c in header), None) for w in (_IMAGE, _LABEL, _CAPTION))
    if image is None:
        raise InputError(f"csv:{rest}: no image column; expected one of {', '.join(_IMAGE)}")

    def picture(i: int) -> Picture:
        name = rows[i][image]
        if not name:  # None in a row shorter than the header
            raise OSError("no image path")
        return (path.parent / name).read_bytes()

    labels = one_space([read_label(row.get(label)) if label else None for row in rows])
    captions = [row.get(caption) or "" for row in rows] if caption else None
    return Source({"": lambda: Split(labels, picture, captions)})


_BLOCK, _HELD = 8192, 4


def open_parts(rest: str) -> Parts | None:
    """The pairs of `csv:rest`, rows and images read from disk as they are asked for; None without a caption column.

    Left out and counted: rows without an image path or a caption, and rows that are no CSV.

    Raises:
        InputError: no such file, or no image column.
    """
    path = Path(rest)
    try:
        image, caption, _ = _columns(path)
        if image is None:
            raise InputError(f"csv:{rest}: no image column; expected one of {', '.join(_IMAGE)}")
        if caption is None:
            return None
        table, skipped = offset_table(path, 2, _scan)
    except (OSError, csv.Error) as error:
        raise InputError(f"csv:{rest}: cannot be read ({error})") from None
    name = f"{path.name}|{path.stat().st_size}"
    return Parts([Part(name, len(table), partial(_TableReader, path))], skipped, _BLOCK, _HELD)


class _TableReader:
    """Rows of a table by number; image paths are relative to the table's folder."""

    def __init__(self, path: Path) -> None:
        self._path, self._rows = path, offset_table(path, 2, _scan)[0]
        self._image, self._caption, self._header = _columns(path)

    def picture(self, row: int) -> Picture:
        return (self._path.parent / self._cell(row, self._image)).read_bytes()

    def caption(self, row: int) -> str:
        return self._cell(row, self._caption)

    def _cell(self, row: int, column: int | None) -> str:
        assert column is not None
        offset, size = self._rows[row].tolist()
        with self._path.open("rb") as file:
            file.seek(offset)
            text = file.read(size)
        return next(csv.reader(StringIO(_text(text), newline=""), delimiter=_delimiter(self._path)))[column].strip()


def _columns(path: Path) -> tuple[int | None, int | None, list[str]]:
    """Places of the image and the caption column, and the header."""
    with path.open("rb") as file:
        header = next(csv.reader(_Lines(file), delimiter=_delimiter(path)), [])
    image, caption = (next((header.index(c) for c in w if c in header), None) for w in (_IMAGE, _CAPTION))
    return image, caption, header


def _scan(path: Path, add: Add) -> int:
    """Offset and size of every row with an image and a caption; returns how many were left out."""
    image, caption, _ = _columns(path)
    assert image is not None and caption is not None
    skipped = 0
    with path.open("rb") as file:
        lines = _Lines(file)
        reader = csv.reader(lines, delimiter=_delimiter(path))
        next(reader)
        while True:
            begin = lines.end
            try:
                row = next(reader)
            except StopIteration:
                return skipped
            except csv.Error:
                row = [""]
            if len(row) > max(image, caption) and row[image].strip() and row[caption].strip():
                add(begin, lines.end - begin)
            elif row:  # an empty line is no row
                skipped += 1


class _Lines:
    """Lines of text, with the place in the file where the last one ended."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.end = file, 0

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            self.end += len(line)
            yield _text(line)


def _text(line: bytes) -> str:
    # Before Python 3.11 the reader gives up at a NUL.
    return line.decode("utf-8", errors="replace").lstrip("\ufeff").replace("\0", "\ufffd")


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix == ".tsv" else ","
