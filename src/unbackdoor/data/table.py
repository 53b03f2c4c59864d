"""`csv:PATH`: a table with an image column and a caption or label column; .tsv is read with tabs."""

from __future__ import annotations

import csv
from pathlib import Path

from unbackdoor.data.source import Picture, Source, Split, one_space, read_label
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
            rows = list(csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ","))
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
