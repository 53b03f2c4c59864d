"""Data of strangers: tables, shards, Parquet files, folders of pictures, names of classes, captions."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from tests.fuzz.engine import Reader, Target, on_file
from tests.fuzz.mutate import mutate_bytes, mutate_json, mutate_parquet, mutate_tar, mutate_text
from unbackdoor.base.errors import InputError

_SIDE = 8


def picture(form: str = "PNG", mode: str = "RGB", side: int = 8, **how: object) -> bytes:
    """A small picture with some noise in it."""
    from PIL import Image

    out = io.BytesIO()
    image = Image.effect_noise((side, side), 60).convert(mode)
    image.save(out, form, **how)
    return out.getvalue()


def _all(calls: list[Callable[[], str]]) -> str:
    """Every way to read a source; the first refusal is the outcome, once all have been tried."""
    told, refusal = [], None
    for call in calls:
        try:
            told.append(call())
        except InputError as error:
            refusal = refusal or error
    if refusal is not None:
        raise refusal
    return " ".join(told)


def _source(spec: str) -> str:
    """Described, decoded, split, and streamed as pairs."""
    from unbackdoor.data.openpairs import open_pairs
    from unbackdoor.data.specs import describe, load_images

    def described() -> str:
        found = describe(spec)
        json.dumps(found)
        return f"{len(found['classes'])} {found['captions']}"

    def decoded() -> str:
        images = load_images(spec, side=_SIDE)
        assert images.images.shape[1:] == (3, _SIDE, _SIDE)
        assert not images.classes or bool((images.labels < len(images.classes)).all())
        return f"{images.skipped > 0} {bool((images.labels >= 0).any())}"

    def streamed() -> str:
        pairs = open_pairs(spec, side=_SIDE, split=None)
        batch = pairs.batch(torch.arange(min(len(pairs), 4)))
        assert len(batch.captions) == len(batch.images)
        return f"{pairs.skipped > 0}"

    def shared() -> str:
        return str(len(load_images(spec, side=_SIDE, split="train", limit=2)) > 0)

    return _all([described, decoded, shared, streamed])


def _table(name: str, room: Path) -> Reader:
    for i in range(4):
        (room / f"{i}.png").write_bytes(picture())
    path = room / name
    return on_file(path, lambda: _source(f"csv:{path}"))


def _tables(cut: str) -> list[bytes]:
    rows = [
        ["image,label", "0.png,cat", "1.png,dog", "2.png,cat"],
        ["filepath,title", "0.png,a cat", '1.png,"a dog, or two"', "3.png,a sun"],
        ["image,label,caption", "0.png,0,a cat", "1.png,1,a dog", "x.png,7,"],
        ["\ufeffimage,caption", "0.png,one", "0.png,two", "0.png,three", "1.png,one"],
        ["image,class", "0.png,-1", "1.png,3.0", "2.png,²"],
    ]
    return ["\n".join(row).replace(",", cut).encode() for row in rows]


def _shards(room: Path) -> Reader:
    path = room / "s.tar"
    return on_file(path, lambda: _source(f"wds:{path}"))


def _shard_seeds() -> list[bytes]:
    small, jpeg = picture(), picture("JPEG")
    rows: list[list[tuple[str, bytes]]] = [
        [(f"{i}.{ending}", content) for i in range(3) for ending, content in (("png", small), ("cls", b"%d" % i))],
        [
            (f"{i}.{ending}", content)
            for i in range(3)
            for ending, content in (("jpg", jpeg), ("txt", b"a photo of it"))
        ],
        [
            ("a.jpg", jpeg),
            ("a.json", b'{"caption": ["one", "two"], "label": 1}'),
            ("b.png", small),
            ("b.json", b'{"label": "x"}'),
        ],
        [("x/a.cls", b"1"), ("x/a.final.png", small), ("._a.png", b"x"), ("y/a.png", small), ("y/a.txt", b"t")],
    ]
    return [_tar(row, form) for row in rows for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]


def _tar(rows: list[tuple[str, bytes]], form: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, content in rows:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _parquet(room: Path) -> Reader:
    path = room / "d.parquet"
    return on_file(path, lambda: _source(f"parquet:{path}"))


def _parquet_seeds() -> list[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    small = picture()
    images = [{"bytes": small, "path": f"{i}.png"} for i in range(3)]
    features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    notes = {"huggingface": json.dumps({"info": {"features": features}})}
    tables = [
        pa.table({"image": images, "label": [0, 1, -1]}).replace_schema_metadata(notes),
        pa.table({"img": images, "fine_label": ["a", "b", None]}),
        pa.table({"image": [small] * 3, "caption": ["one", "two", ""]}),
        pa.table({"image": images, "captions": [["one", "two"], [], ["three"]], "label": [0, 1, 2]}),
    ]
    found = []
    for table in tables:
        out = io.BytesIO()
        pq.write_table(table, out)
        found.append(out.getvalue())
    return found


def _pictures() -> list[bytes]:
    from PIL import Image

    forms = [
        ("PNG", "RGB"),
        ("PNG", "P"),
        ("PNG", "RGBA"),
        ("PNG", "LA"),
        ("PNG", "1"),
        ("JPEG", "RGB"),
        ("JPEG", "L"),
        ("JPEG", "CMYK"),
        ("GIF", "P"),
        ("BMP", "RGB"),
        ("PPM", "RGB"),
        ("PPM", "L"),
        ("TIFF", "RGB"),
        ("TIFF", "L"),
        ("WEBP", "RGB"),
        ("WEBP", "RGBA"),
    ]
    deep = io.BytesIO()
    Image.new("I;16", (9, 5), 40_000).save(deep, "TIFF")
    packed = picture("TIFF", side=16, compression="tiff_lzw")
    return [
        *(picture(form, mode) for form, mode in forms),
        deep.getvalue(),
        packed,
        picture("JPEG", side=40, progressive=True),
    ]


def _decode(room: Path) -> Reader:
    from unbackdoor.clip.preprocess import Frame
    from unbackdoor.data.decode import decode_all

    frames = [Frame.of(8), Frame(8, "bilinear", "shortest"), Frame(8, "bicubic", "longest")]

    def read(data: bytes) -> str:
        told = []
        for frame in frames:
            images, kept = decode_all(lambda _: data, [0], frame, None)
            assert images.shape == (len(kept), 3, 8, 8)
            told.append(str(len(kept)))
        return " ".join(told)

    return read


def _names(room: Path) -> Reader:
    """A line that is the file's ending, then its content; on a set of three classes."""
    from unbackdoor.data.classnames import class_names, templates
    from unbackdoor.data.specs import describe

    (room / "d").mkdir()
    for name in ("cat", "dog", "sun"):
        (room / "d" / name).mkdir()
        (room / "d" / name / "0.png").write_bytes(picture())
    endings = ("txt", "json", "csv", "py", "tsv", "templates")

    def read(data: bytes) -> str:
        first, _, content = data.partition(b"\n")
        ending = next((e for e in endings if e.encode() == first), "txt")
        path = room / f"names.{ending}"
        path.write_bytes(content)
        if ending == "templates":
            return str(min(9, len(templates(str(path)))))
        return _all(
            [
                lambda: str(min(9, len(class_names(str(path))))),
                lambda: str(len(describe(f"folder:{room / 'd'}", classes=str(path))["classes"])),
            ]
        )

    return read


def _name_seeds() -> list[bytes]:
    return [
        b"txt\ncat\ndog\nsun\n",
        "txt\n\ufeffCat\r\nD_og\r\nsun\r\n".encode(),
        b"txt\n0 cat\n1 dog\n2 sun\n",
        b'json\n["cat", "dog", "sun"]',
        b'json\n{"0": "cat", "1": "dog", "2": "sun"}',
        b'json\n{"id2label": {"0": "cat", "1": "dog", "2": "sun"}}',
        b"csv\nid,name\n0,cat\n1,dog\n2,sun\n",
        b"py\nclasses = ['cat', 'dog', 'sun']\n",
        b"templates\na photo of a {}.\nthe {}.\n",
    ]


def _name_bytes(data: bytes, rng, pool):  # type: ignore[no-untyped-def]
    """The first line stays."""
    first, _, content = data.partition(b"\n")
    change = mutate_json if first == b"json" and rng.random() < 0.7 else mutate_text
    return (
        first + b"\n" + change(content, rng, [other.partition(b"\n")[2] for other in pool if other.startswith(first)])
    )


def _captions(room: Path) -> Reader:
    from unbackdoor.data.sentences import read_class_texts

    path = room / "captions.json"
    return on_file(path, lambda: str(len(read_class_texts(path, ("cat", "dog", "sun")))))


def _caption_seeds() -> list[bytes]:
    value = {
        "cat": {"synonyms": ["kitty"], "descriptions": ["a small cat"]},
        "dog": {"synonyms": [], "descriptions": ["a dog"]},
    }
    return [json.dumps(value).encode(), json.dumps([{"name": name, **entry} for name, entry in value.items()]).encode()]


TARGETS = (
    Target("table-csv", mutate_text, partial(_tables, ","), partial(_table, "t.csv")),
    Target("table-tsv", mutate_text, partial(_tables, "\t"), partial(_table, "t.tsv")),
    Target("shards", mutate_tar, _shard_seeds, _shards),
    Target("parquet", mutate_parquet, _parquet_seeds, _parquet),
    Target("picture", mutate_bytes, _pictures, _decode),
    Target("class-names", _name_bytes, _name_seeds, _names),
    Target("captions", mutate_json, _caption_seeds, _captions),
)
