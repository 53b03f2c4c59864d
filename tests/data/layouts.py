"""Random layouts of the same labelled pictures, as people lay them out: folders, tables, shards, Parquet files.

A layout is drawn from a seed: the format, how labels are written, in which order, which splits, with which class file
and which litter. `lay_out` writes it, and says what must come of it by arithmetic of its own: which pictures are
measured, and what their classes are called.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

FORMATS = ("folder", "csv", "parquet", "wds")
CLASS_FILES = (
    "lines", "bom", "json", "json-ids", "json-names", "id2label", "csv", "tsv-shuffled", "python", "numbered",
)  # fmt: skip


def png(level: int = 0, side: int = 8) -> bytes:
    """A square of one shade of red."""
    out = io.BytesIO()
    Image.new("RGB", (side, side), (level, 0, 0)).save(out, "PNG")
    return out.getvalue()


@dataclass(frozen=True)
class Picture:
    """One of the pictures, as PNG, and the name of what it shows."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Layout:
    """What was written, and what is right.

    Args:
        spec: for `--data`.
        classes: for `--classes`, None without.
        measured: places of the pictures in the split that evaluation reads.
        heads: class names that each answer is chosen from, in any order.
        sound: whether it says what its labels mean; of one that does not, only a refusal is right.
        about: what was drawn, for messages.
    """

    spec: str
    classes: str | None
    measured: tuple[int, ...]
    heads: tuple[str, ...]
    sound: bool
    about: str


def lay_out(pictures: Sequence[Picture], names: Sequence[str], root: Path, seed: int) -> Layout:
    """Write the layout of a seed below `root`, an empty folder.

    Args:
        names: classes of the pictures, and further ones that a class file may hold besides.
    """
    draw = Random(seed)
    kind = draw.choice(FORMATS)
    shown = list(dict.fromkeys(p.name for p in pictures))
    numbered = draw.random() < 0.4
    order = [*shown, *[n for n in names if n not in shown]] if draw.random() < 0.4 else list(shown)
    draw.shuffle(order)
    file = draw.choice(CLASS_FILES) if numbered or draw.random() < 0.6 else None
    spelling = _spelling(draw, numbered)
    splits = _splits(draw, pictures) if kind in ("folder", "parquet") and draw.random() < 0.5 else {"": None}
    lacking = None
    if file is not None and draw.random() < 0.1:  # of a class there are pictures, and the list lacks it
        lacking = draw.choice(shown)
        order.remove(lacking)
    sound = True
    if numbered and file == "tsv-shuffled" and draw.random() < 0.5:
        file = "names-only"  # a table of names in no order says nothing of numbers
        sound = False
    labels = {name: str(place) for place, name in enumerate(order)} if numbered else {}
    for name in shown:
        labels.setdefault(name, str(len(order)) if numbered else name)
    rows: dict[str, list[int]] = {}
    for split, kept in splits.items():
        chosen = list(range(len(pictures))) if kept is None else list(kept)
        draw.shuffle(chosen)
        rows[split] = chosen
    written = {split: [(i, spelling(labels[pictures[i].name])) for i in chosen] for split, chosen in rows.items()}
    place = {"folder": _folder, "csv": _table, "parquet": _parquet, "wds": _shards}[kind](pictures, written, root, draw)
    classes = None
    if file is not None:
        classes = str(root / _class_file(file, order, root, draw))
    measured = next(rows[split] for split in ("test", "val", "validation", "") if split in rows)
    sound = sound and lacking not in {pictures[i].name for i in measured}
    if file is None:
        heads = tuple(dict.fromkeys(pictures[i].name for chosen in rows.values() for i in chosen))
        heads = tuple(spelling(name) for name in heads)
    else:
        heads = tuple(order)
    about = f"seed {seed}: {kind}, {'numbers' if numbered else 'names'}, class file {file}, splits {list(splits)}"
    return Layout(f"{kind}:{place}", classes, tuple(sorted(measured)), heads, sound, about)


class _Spelling:
    """Labels as somebody else would write them; one way for all labels of a layout."""

    def __init__(self, way: str) -> None:
        self.way = way

    def __call__(self, label: str) -> str:
        ways = {
            "as it is": label,
            "underscores": label.replace(" ", "_"),
            "dashes": label.replace(" ", "-"),
            "title": label.title(),
            "upper": label.upper(),
            "camel": label.title().replace(" ", "_"),
            "padded": label.zfill(4),
            "float": f"{label}.0",
        }
        return ways[self.way]


def _spelling(draw: Random, numbered: bool) -> _Spelling:
    ways = (
        ("as it is", "padded", "float")
        if numbered
        else ("as it is", "underscores", "dashes", "title", "upper", "camel")
    )
    return _Spelling(draw.choice(ways))


def _splits(draw: Random, pictures: Sequence[Picture]) -> dict[str, list[int] | None]:
    """Train has them all; a test set may lack some pictures, or all of a class."""
    every = list(range(len(pictures)))
    if draw.random() < 0.5:
        lacking = draw.choice(pictures).name
        held = [i for i in every if pictures[i].name != lacking]
    else:
        held = draw.sample(every, len(every) * 2 // 3)
    return {"train": every, draw.choice(("test", "val", "validation")): held}


Written = dict[str, list[tuple[int, str]]]


def _folder(pictures: Sequence[Picture], written: Written, root: Path, draw: Random) -> Path:
    top = root / "data"
    litter = draw.random() < 0.5
    ending = draw.choice((".png", ".PNG", ".final.png"))
    for split, rows in written.items():
        for i, label in rows:
            folder = top / split / label
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i:03}{ending}").write_bytes(pictures[i].content)
            if litter:
                (folder / f"._{i:03}{ending}").write_bytes(b"\0\5\x16\7")
        if litter:
            for name in ("__MACOSX", ".cache", "empty"):
                (top / split / name).mkdir()
            (top / split / ".DS_Store").write_bytes(b"\0")
    return top


def _table(pictures: Sequence[Picture], written: Written, root: Path, draw: Random) -> Path:
    comma = draw.choice((",", "\t", ";"))
    header = draw.choice((("image", "label"), ("filepath", "class"), ("Image_Path", "Label"), ("path", "label_name")))
    lines = [comma.join(header)]
    (root / "pictures").mkdir()
    for i, label in written[""]:
        (root / "pictures" / f"{i}.png").write_bytes(pictures[i].content)
        lines.append(comma.join((f"pictures/{i}.png", f'"{label}"' if draw.random() < 0.3 else label)))
    place = root / f"table{draw.choice(('.csv', '.tsv', '.txt'))}"
    mark = draw.choice((b"", b"\xef\xbb\xbf"))
    place.write_bytes(mark + draw.choice(("\n", "\r\n")).join([*lines, ""]).encode())
    return place


def _parquet(pictures: Sequence[Picture], written: Written, root: Path, draw: Random) -> Path:
    """Every file lists its class names in an order of its own, or none."""
    top = root / "set"
    top.mkdir()
    listed = draw.random() < 0.5
    for split, rows in written.items():
        halves = [rows[::2], rows[1::2]] if draw.random() < 0.5 else [rows]
        for part, half in enumerate(halves):
            image = pa.array([{"bytes": pictures[i].content, "path": None} for i, _ in half])
            labels = [label for _, label in half]
            numbers = all(label.replace(".", "").isdigit() for label in labels)
            metadata = None
            if numbers and not draw.random() < 0.5:
                column = pa.array([int(float(label)) for label in labels])
            elif listed and not numbers:
                own = sorted({label for _, label in rows})
                draw.shuffle(own)
                column = pa.array([own.index(label) for label in labels])
                features = {"label": {"names": own, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
                metadata = {"huggingface": json.dumps({"info": {"features": features}})}
            else:
                column = pa.array(labels)
            table = pa.table({"image": image, "label": column}).replace_schema_metadata(metadata)
            name = f"{split or 'data'}-{part:05}-of-{len(halves):05}.parquet"
            pq.write_table(table, top / name, row_group_size=draw.choice((5, 1000)))
    return top


def _shards(pictures: Sequence[Picture], written: Written, root: Path, draw: Random) -> Path:
    rows = written[""]
    style = draw.choice(("cls", "json"))
    mac, dotted = draw.random() < 0.3, draw.random() < 0.3
    halves = [rows[::2], rows[1::2]] if draw.random() < 0.5 else [rows]
    for part, half in enumerate(halves):
        members: list[tuple[str, bytes]] = []
        for i, label in half:
            key = f"dir/{i:06}" if dotted else f"{i:06}"
            text = f"{label}\n" if style == "cls" else json.dumps({"label": label, "caption": "a picture"})
            members += [(f"{key}.png", pictures[i].content), (f"{key}.{style}", text.encode())]
            if mac:
                members.append((f"{Path(key).parent}/._{i:06}.png", b"\0\5\x16\7"))
        if draw.random() < 0.3:
            draw.shuffle(members)
        with tarfile.open(root / f"shard-{part:03}.tar", "w") as tar:
            for name, content in members:
                about = tarfile.TarInfo(name)
                about.size = len(content)
                tar.addfile(about, io.BytesIO(content))
    return root / (f"shard-{{000..{len(halves) - 1:03}}}.tar" if draw.random() < 0.5 else "shard-*.tar")


def _class_file(form: str, order: Sequence[str], root: Path, draw: Random) -> str:
    shuffled = list(enumerate(order))
    draw.shuffle(shuffled)
    texts = {
        "lines": "\n".join(order),
        "bom": "\ufeff" + "\r\n".join(order) + "\r\n",
        "json": json.dumps(list(order)),
        "json-ids": json.dumps({str(i): name for i, name in shuffled}),
        "json-names": json.dumps({name: i for i, name in shuffled}),
        "id2label": json.dumps({"model_type": "vit", "id2label": {str(i): name for i, name in shuffled}}),
        "csv": "id,name\n" + "".join(f"{i},{name}\n" for i, name in shuffled),
        "tsv-shuffled": "name\tid\n" + "".join(f"{name}\t{i}\n" for i, name in shuffled),
        "names-only": "{" + ", ".join(f'"{name}": "{name}"' for _, name in shuffled) + "}",
        "python": f"CLASSES = {list(order)!r}\n",
        "numbered": "".join(f"{i}: {name}\n" for i, name in shuffled),
    }
    ending = {
        "csv": ".csv",
        "tsv-shuffled": ".tsv",
        "python": ".py",
        "lines": ".txt",
        "bom": ".txt",
        "numbered": ".txt",
    }
    name = f"names{ending.get(form, '.json')}"
    (root / name).write_text(texts[form], encoding="utf-8", newline="")
    return name
