"""A share of a large source, written once as Parquet in the Hub's image schema: encoded pictures stay as they are."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from unbackdoor.base.draws import permutation
from unbackdoor.base.errors import InputError
from unbackdoor.base.manifest import write_json
from unbackdoor.base.untrusted import read_json
from unbackdoor.data.source import Picture, Source, Split
from unbackdoor.data.specs import open_source

FILE_ROWS, GROUP_ROWS = 5000, 200  # row groups are read whole, ten at a time, where pairs are streamed
MEASURED = ("validation", "val", "valid", "test")  # ImageNet's test split has no labels


def draw_subset(spec: str, folder: Path, count: int) -> str:
    """At most `count` training rows of a source, and all of the split that models are measured on, where there is one.

    What is there of the same draw is kept.

    Returns:
        The spec of what was written.

    Raises:
        InputError: the source cannot be read, or `folder` holds the draw of another one.
    """
    card, wanted = folder / "drawn.json", {"source": spec, "count": count}
    if card.exists():
        if read_json(card) != wanted:
            raise InputError(f"{folder} holds another draw ({card} tells which); name another output folder")
        return f"parquet:{folder}"
    folder.mkdir(parents=True, exist_ok=True)
    address, _, forced = spec.partition("#")
    source = open_source(address)
    train = _split(source, forced or "train", spec)
    rows = permutation(len(train), 0)[:count].sort().values.tolist()
    _write(folder, "train", source, train, rows)
    name = next((n for n in MEASURED if n in source.splits and n != forced and n not in source.unlabeled), None)
    if name is not None:
        measured = source.splits[name]()
        _write(folder, "test", source, measured, range(len(measured)))
    write_json(card, wanted)
    return f"parquet:{folder}"


def _split(source: Source, name: str, spec: str) -> Split:
    names = list(source.splits)
    if name not in names and names != [""]:
        raise InputError(f"{spec}: no split {name!r}; it has {', '.join(names)}")
    return source.splits[name if name in names else ""]()


def _write(folder: Path, split: str, source: Source, records: Split, rows: Sequence[int]) -> None:
    """Rows of a split, some thousands a file."""
    for number, start in enumerate(range(0, len(rows), FILE_ROWS)):
        table = pa.Table.from_pylist(
            list(_rows(source, records, rows[start : start + FILE_ROWS])), schema=_schema(source, records)
        )
        # Overwritten by a second start: without the card, whether a file is whole is not known.
        pq.write_table(table, folder / f"{split}-{number:05d}.parquet", row_group_size=GROUP_ROWS)


def _schema(source: Source, records: Split) -> pa.Schema:
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns: list[tuple[str, Any]] = [("image", picture)]
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if any(label is not None for label in records.labels):
        named = bool(source.classes)
        numbers = named or all(isinstance(label, int) for label in records.labels if label is not None)
        columns.append(("label", pa.int64() if numbers else pa.string()))
        kind = {"_type": "ClassLabel", "names": list(source.classes)} if named else {"_type": "Value"}
        features["label"] = kind if named else kind | {"dtype": "int64" if numbers else "string"}
    if records.captions is not None:
        columns.append(("caption", pa.list_(pa.string())))
        features["caption"] = {"_type": "Sequence", "feature": {"dtype": "string", "_type": "Value"}}
    return pa.schema(columns, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _rows(source: Source, records: Split, rows: Sequence[int]) -> Iterator[dict[str, Any]]:
    place = {name: i for i, name in enumerate(source.classes)}
    for row in rows:
        try:
            picture = _encoded(records.picture(row))
        except (OSError, ValueError):
            continue  # as every reader does, which counts them
        label = records.labels[row]
        captions = None if records.captions is None else records.captions[row]
        yield {
            "image": {"bytes": picture, "path": None},
            "label": place.get(label) if place and isinstance(label, str) else label,
            "caption": [captions] if isinstance(captions, str) else captions,
        }


def _encoded(picture: Picture) -> bytes:
    if isinstance(picture, bytes):
        return picture
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()
