"""Data sources: tables, folders, shards, Parquet files, class names and templates."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile.suite.made import DEEP, ESCAPES, HUGE_NUMBER, member, picture
from tests.hostile.suite.runner import CANARY, Entry

ON = ["evaluate", "--model", "embedded", "--limit", "8", "--data"]


def _table(
    name: str, rows: list[str] | str | bytes, codes: tuple[int, ...] = (2,), file: str = "t.csv", **more: str
) -> Entry:
    def make(folder: Path) -> list[str]:
        (folder / "ok.png").write_bytes(picture())
        (folder / "names.txt").write_text("cat\ndog\n")
        content = "\n".join(rows) + "\n" if isinstance(rows, list) else rows
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
        return [*ON, f"csv:{file}", "--classes", "names.txt"]

    return Entry(f"table {name}", make, codes, **more)


def _special(name: str, make_it: Callable[[Path], object], codes: tuple[int, ...] = (0, 2)) -> Entry:
    def make(folder: Path) -> list[str]:
        (folder / "ok.png").write_bytes(picture())
        make_it(folder / "odd")
        (folder / "names.txt").write_text("cat\ndog\n")
        (folder / "t.csv").write_text("image,label\nok.png,0\nodd,1\n")
        return [*ON, "csv:t.csv", "--classes", "names.txt"]

    return Entry(f"table names {name}", make, codes)


H = "image,label"
_TABLES: list[tuple[str, Any, tuple[int, ...]]] = [
    ("of a climbing path", [H, "ok.png,0", f"../{CANARY},1"], (0, 2)),
    ("of an absolute path", [H, "ok.png,0", "/etc/passwd,1"], (0, 2)),
    ("of a link's path", [H, "ok.png,0", "./././ok.png,1"], (0, 2)),
    ("of a path with a NUL", [H, "ok.png,0", "a\0b,1"], (0, 2)),
    ("of a path of a million", [H, "ok.png,0", "a" * 10**6 + ",1"], (0, 2)),
    ("of a URL", [H, "ok.png,0", "http://127.0.0.1:9/x.png,1"], (0, 2)),
    ("of a file URL", [H, "ok.png,0", "file:///etc/passwd,1"], (0, 2)),
    ("of a label of 5,000 digits", [H, "ok.png," + "9" * 5000], (2,)),
    ("of a label of a billion", [H, "ok.png,1000000000"], (2,)),
    ("of a label below nought", [H, "ok.png,-1"], (2,)),
    ("of a label not a number", [H, "ok.png,nan"], (2,)),
    ("of an infinite label", [H, "ok.png,inf"], (2,)),
    ("of a label with escapes", [H, f'ok.png,"{ESCAPES}"'], (2,)),
    ("of half a label", [H, "ok.png,0.5"], (2,)),
    ("of labels of two kinds", [H, "ok.png,0", "ok.png,cat"], (0, 2)),
    ("without rows", [H], (2,)),
    ("without columns", ["", "", ""], (2,)),
    ("of another header", ["a,b", "ok.png,0"], (2,)),
    ("of a header twice", ["image,image,label", "ok.png,ok.png,0"], (0, 2)),
    ("of a header with escapes", [ESCAPES.replace("\r\n", "") + ",label", "ok.png,0"], (2,)),
    ("of a million columns", [",".join(["image", "label", *("c" for _ in range(10**6))]), "ok.png,0"], (0, 2)),
    ("of short rows", [H, "ok.png", "", ",", "ok.png,0"], (0, 2)),
    ("of long rows", [H, "ok.png,0,1,2,3"], (0, 2)),
    ("of a quote without end", [H, 'ok.png,"0'], (0, 2)),
    ("of a quote of a million", [H, 'ok.png,"' + "x" * 10**6 + '"'], (2,)),
    ("empty", "", (2,)),
    ("of zeros", bytes(10_000), (2,)),
    ("in UTF-16", f"{H}\nok.png,0\n".encode("utf-16"), (0, 2)),
    ("not in UTF-8", b"image,label\nok.png,\xff\xfe\n", (0, 2)),
    ("in gzip", gzip.compress(b"image,label\nok.png,0\n"), (2,)),
]


def _two_million(folder: Path) -> list[str]:
    (folder / "ok.png").write_bytes(picture())
    with (folder / "t.csv").open("w") as file:
        file.write("image,label\n")
        for _ in range(200):
            file.write("ok.png,0\n" * 10_000)
    (folder / "names.txt").write_text("cat\ndog\n")
    return [*ON, "csv:t.csv", "--classes", "names.txt"]


def _beside(name: str, codes: tuple[int, ...] = (0, 2)) -> Entry:
    # A link in the table's folder that leads out of it.
    def make(folder: Path) -> list[str]:
        (folder / "ok.png").write_bytes(picture())
        (folder / "link.png").symlink_to(folder.parent / CANARY)
        (folder / "names.txt").write_text("cat\ndog\n")
        (folder / "t.csv").write_text("image,label\nok.png,0\nlink.png,1\n")
        return [*ON, "csv:t.csv", "--classes", "names.txt"]

    return Entry(name, make, codes)


def _tree(name: str, make_it: Callable[[Path], object], codes: tuple[int, ...] = (2,), classes: bool = True) -> Entry:
    def make(folder: Path) -> list[str]:
        root = folder / "d"
        root.mkdir()
        make_it(root)
        (folder / "names.txt").write_text("cat\ndog\n")
        return [*ON, "folder:d", *(["--classes", "names.txt"] if classes else [])]

    return Entry(f"folder {name}", make, codes)


def _put(path: Path, content: bytes | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture() if content is None else content)


def _loop(root: Path) -> None:
    _put(root / "cat" / "a.png")
    (root / "cat" / "again").symlink_to(root, target_is_directory=True)
    (root / "dog").symlink_to(root / "cat", target_is_directory=True)


def _chain(root: Path) -> None:
    _put(root / "cat" / "a.png")
    for i in range(40):
        (root / "cat" / f"x{i}").symlink_to(root / "cat", target_is_directory=True)
    _put(root / "dog" / "a.png")


def _pipes(root: Path) -> None:
    _put(root / "cat" / "a.png")
    _put(root / "dog" / "a.png")
    os.mkfifo(root / "dog" / "b.png")
    (root / "dog" / "c.png").symlink_to("/dev/zero")
    (root / "dog" / "d.png").symlink_to(root.parent.parent / CANARY)


def _names(*names: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        for name in names:
            _put(root / name / "a.png")

    return make


def _deep(root: Path) -> None:
    path = root / "cat"
    for _ in range(300):
        path = path / "x"
    _put(path / "a.png")
    _put(root / "dog" / "a.png")


def _many_classes(root: Path) -> None:
    for i in range(5000):
        (root / f"c{i}").mkdir()
    _put(root / "c0" / "a.png")


def _parquet(
    name: str, columns: Callable[[], Any], codes: tuple[int, ...] = (2,), metadata: object = None, **how: Any
) -> Entry:
    def make(folder: Path) -> list[str]:
        import pyarrow.parquet as pq

        table = columns()
        if metadata is not None:
            text = metadata if isinstance(metadata, str) else json.dumps(metadata)
            table = table.replace_schema_metadata({"huggingface": text})
        pq.write_table(table, folder / "p.parquet", **how)
        return [*ON, "parquet:p.parquet"]

    return Entry(f"parquet {name}", make, codes)


def _columns(**columns: Any) -> Callable[[], Any]:
    def make() -> Any:
        import pyarrow as pa

        return pa.table({name: value() if callable(value) else value for name, value in columns.items()})

    return make


def _array(values: Any, kind: str = "", *inner: Any) -> Callable[[], Any]:
    def make() -> Any:
        import pyarrow as pa

        return pa.array(values, getattr(pa, kind)(*inner) if kind else None)

    return make


def _labels(**more: object) -> object:
    return {"info": {"features": {"image": {"_type": "Image"}, "label": more}}}


PNG = picture()
TWO = {"image": [PNG, PNG], "label": [0, 1]}
_METADATA: list[tuple[str, object, tuple[int, ...]]] = [
    ("deep", DEEP, (2,)),
    ("of a huge number", '{"info": ' + HUGE_NUMBER + "}", (2,)),
    ("of features in a list", {"info": {"features": ["label"]}}, (0, 2)),
    ("of names of a number", _labels(names=5, _type="ClassLabel"), (2,)),
    ("of names in a word", _labels(names="cat", _type="ClassLabel"), (2,)),
    ("of names of numbers", _labels(names=[1, 2], _type="ClassLabel"), (0, 2)),
    ("of too few names", _labels(names=["cat"], _type="ClassLabel"), (2,)),
    ("of a name twice", _labels(names=["cat", "cat"], _type="ClassLabel"), (0, 2)),
    ("of names with escapes", _labels(names=[ESCAPES, "dog"], _type="ClassLabel"), (0, 2)),
    ("of a million names", _labels(names=[f"c{i}" for i in range(10**6)], _type="ClassLabel"), (0, 2)),
    ("in a list", [], (0, 2)),
    ("null", "null", (0, 2)),
    ("cut", "{", (0, 2)),
]
_WITH = _labels(names=["cat", "dog"], _type="ClassLabel")
_PARQUETS: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
    ("of labels in structs", {"image": [PNG], "label": [{"a": 1}]}, (2,)),
    ("of labels in lists", {"image": [PNG], "label": [[1]]}, (2,)),
    ("of labels in bytes", {"image": [PNG], "label": [b"x"]}, (2,)),
    ("of labels of dates", {"image": [PNG], "label": _array([1], "date32")}, (2,)),
    ("of labels below nought", {"image": [PNG], "label": [-7]}, (2,)),
    ("of labels of huge numbers", {"image": [PNG], "label": [2**62]}, (2,)),
    ("of labels of halves", {"image": [PNG], "label": [0.5]}, (2,)),
    ("of labels not a number", {"image": [PNG, PNG], "label": [float("nan"), 0.0]}, (0, 2)),
    ("of infinite labels", {"image": [PNG], "label": [float("inf")]}, (2,)),
    ("of labels true", {"image": [PNG, PNG], "label": [True, False]}, (0, 2)),
    ("of no labels", {"image": [PNG], "label": _array([None], "null")}, (2,)),
    ("of images in numbers", {"image": [1], "label": [0]}, (2,)),
    ("of images in lists", {"image": [[PNG]], "label": [0]}, (2,)),
    ("of images of nothing", {"image": [b""], "label": [0]}, (2,)),
    ("of images null", {"image": _array([None], "binary"), "label": [0]}, (2,)),
    ("of images of other structs", {"image": [{"evil": 1}], "label": [0]}, (2,)),
    ("of climbing paths", {"image": [f"../{CANARY}"], "label": [0]}, (2,)),
    ("of absolute paths", {"image": ["/etc/passwd"], "label": [0]}, (2,)),
    ("of paths of devices", {"image": ["/dev/zero"], "label": [0]}, (2,)),
    ("of paths with a NUL", {"image": ["a\0b"], "label": [0]}, (2,)),
    ("of no image column", {"evil": [1]}, (2,)),
    ("of no rows", {"image": _array([], "binary"), "label": _array([], "int64")}, (2,)),
    ("of columns with escapes", {ESCAPES: [1]}, (2,)),
]


def _many_rows(folder: Path) -> list[str]:
    # 400 million rows in a few kilobytes.
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 20_000_000
    schema = pa.schema([("image", pa.string()), ("label", pa.int64())])
    with pq.ParquetWriter(folder / "p.parquet", schema, compression="zstd") as writer:
        image = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), pa.array(["a"])).cast(pa.string())
        table = pa.table({"image": image, "label": pa.array(np.zeros(rows, np.int64))})
        for _ in range(20):
            writer.write_table(table, row_group_size=rows)
    return [*ON, "parquet:p.parquet"]


def _large_values(size: int, count: int) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table({"image": pa.array([bytes(size)], pa.binary()), "label": [0]})
        with pq.ParquetWriter(folder / "p.parquet", table.schema, compression="zstd", use_dictionary=False) as file:
            for _ in range(count):
                file.write_table(table)
        return [*ON, "parquet:p.parquet"]

    return make


def _many_groups(folder: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [PNG] * 20_000, "label": [0] * 20_000}), folder / "p.parquet", row_group_size=1)
    return [*ON, "parquet:p.parquet"]


def _broken(name: str, change: Callable[[bytes], bytes]) -> Entry:
    def make(folder: Path) -> list[str]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table(TWO), folder / "p.parquet")
        (folder / "p.parquet").write_bytes(change((folder / "p.parquet").read_bytes()))
        return [*ON, "parquet:p.parquet"]

    return Entry(f"parquet {name}", make)


def _retrieval(name: str, captions: Any, codes: tuple[int, ...] = (0, 2)) -> Entry:
    def make(folder: Path) -> list[str]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"image": [PNG] * len(captions), "caption": captions}), folder / "p.parquet")
        return [*ON, "parquet:p.parquet", "--retrieval"]

    return Entry(f"captions {name}", make, codes)


Members = list[tuple[str, bytes]]
_SOUND: Members = [("a.png", PNG), ("a.cls", b"0"), ("b.png", PNG), ("b.cls", b"1")]


def _shard(name: str, members: Members, codes: tuple[int, ...] = (0, 2), **more: Any) -> Entry:
    def make(folder: Path) -> list[str]:
        with tarfile.open(folder / "s.tar", "w", **more) as tar:
            for file, content in members:
                member(tar, file, content)
        (folder / "names.txt").write_text("cat\ndog\n")
        return [*ON, "wds:s.tar", "--classes", "names.txt"]

    return Entry(f"shard {name}", make, codes)


def _shard_of(name: str, write: Callable[[Path], object], codes: tuple[int, ...] = (2,)) -> Entry:
    def make(folder: Path) -> list[str]:
        write(folder / "s.tar")
        (folder / "names.txt").write_text("cat\ndog\n")
        return [*ON, "wds:s.tar", "--classes", "names.txt"]

    return Entry(f"shard {name}", make, codes)


def _info(name: str, kind: bytes, link: str = "") -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with tarfile.open(path, "w") as tar:
            for file, content in _SOUND:
                member(tar, file, content)
            info = tarfile.TarInfo("c.png")
            info.type, info.linkname = kind, link
            tar.addfile(info)

    return write


def _claims(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for file, content in _SOUND:
            member(tar, file, content)
    raw = bytearray(path.read_bytes())
    raw[124:136] = b"77777777777\0"
    check = sum(raw[:148]) + 8 * 32 + sum(raw[156:512])
    raw[148:156] = b"%06o\0 " % check
    path.write_bytes(raw)


def _gzipped(path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for file, content in _SOUND:
            member(tar, file, content)
    path.write_bytes(gzip.compress(out.getvalue()))


def _gzip_bomb(path: Path) -> None:
    with gzip.open(path, "wb", 9) as file:
        for _ in range(64):
            file.write(bytes(1 << 24))


def _pattern(name: str, pattern: str) -> Entry:
    return Entry(f"shard pattern {name}", lambda folder: [*ON, f"wds:{pattern}"])


def _classes(name: str, content: str | bytes, codes: tuple[int, ...] = (2,)) -> Entry:
    def make(folder: Path) -> list[str]:
        (folder / "ok.png").write_bytes(picture())
        (folder / "t.csv").write_text("image,label\nok.png,0\nok.png,1\n")
        (folder / "names.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
        return [*ON, "csv:t.csv", "--classes", "names.txt"]

    return Entry(f"classes {name}", make, codes)


def _templates(name: str, content: str | bytes, codes: tuple[int, ...] = (2,)) -> Entry:
    def make(folder: Path) -> list[str]:
        (folder / "t.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
        return ["evaluate", "--model", "embedded", "--data", "embedded:digits", "--limit", "4", "--templates", "t.txt"]

    return Entry(f"templates {name}", make, codes)


def _target(folder: Path) -> list[str]:
    (folder / "ok.png").write_bytes(picture())
    (folder / "t.csv").write_text(f'image,label\nok.png,"{ESCAPES}"\nok.png,dog\n')
    return [*ON, "csv:t.csv", "--trigger", "badnets:size=4", "--target", ESCAPES]


ENTRIES = [
    *(_table(name, rows, codes) for name, rows, codes in _TABLES),
    Entry("table of two million rows", _two_million, (0, 2)),
    _beside("table names a link that leads out"),
    _special("a pipe", lambda p: os.mkfifo(p), (0,)),
    _special("a device", lambda p: p.symlink_to("/dev/zero")),
    _special("a folder", lambda p: p.mkdir(), (0,)),
    _special("a link to itself", lambda p: p.symlink_to("odd"), (0, 2)),
    _special("a terabyte of nothing", lambda p: os.truncate(_touched(p), 1 << 40), (0,)),
    _special("a file of the system", lambda p: p.symlink_to("/proc/self/environ")),
    _tree("that is a loop", _loop, (0, 2)),
    _tree("of a thousand ways", _chain, (0, 2)),
    _tree("of pipes and devices", _pipes, (0, 2)),
    _tree("of a deep path", _deep, (0, 2)),
    _tree("of 5,000 empty classes", _many_classes, (0, 2), classes=False),
    _tree("empty", lambda root: None),
    _tree("of files alone", lambda root: _put(root / "a.png"), classes=False),
    _tree("of names with escapes", _names(ESCAPES.replace("/", ""), "dog"), (0, 2), classes=False),
    _tree("of hidden names", _names(".cat", "__MACOSX"), (2,), classes=False),
    _tree("of names alike", _names("Cat", "cat", "CAT"), (0, 2), classes=False),
    _tree("of other names", _names("bird", "fish"), (2,)),
    *(_parquet(f"metadata {name}", _columns(**TWO), codes, metadata) for name, metadata, codes in _METADATA),
    *(_parquet(name, _columns(**columns), codes, _WITH) for name, columns, codes in _PARQUETS),
    Entry("parquet of 400 million rows", _many_rows),
    Entry("parquet of images of half a gigabyte", _large_values(1 << 29, 3)),
    Entry("parquet of many images of 64 MB", _large_values(1 << 26, 30)),
    Entry("parquet of 20,000 row groups", _many_groups, (0, 2)),
    _broken("cut", lambda raw: raw[: len(raw) // 2]),
    _broken("without an end", lambda raw: raw[:-8]),
    _broken("of a huge footer", lambda raw: raw[:-8] + b"\xff\xff\xff\x7f" + raw[-4:]),
    _broken("of noise in its footer", lambda raw: raw[:-60] + bytes(52) + raw[-8:]),
    _broken("of noise in its pages", lambda raw: raw[:4] + bytes(range(256)) * 2 + raw[516:]),
    _broken("empty", lambda raw: b""),
    _retrieval("of numbers", [1, 2]),
    _retrieval("of nothing", ["", ""], (2,)),
    _retrieval("in lists of lists", [[["a"]], [["b"]]]),
    _retrieval("of a million letters", ["x" * 10**6, "y"]),
    _retrieval("of ten thousand to an image", [["a"] * 10**4, ["b"]]),
    _retrieval("of escapes", [ESCAPES, "\0"]),
    _shard("of a broken object", [*_SOUND, ("c.png", PNG), ("c.json", b'{"label":' + b"9" * 5000 + b"}")], (0,)),
    _shard("of a deep object", [*_SOUND, ("c.png", PNG), ("c.json", DEEP.encode())], (0,)),
    _shard("of labels of lists", [*_SOUND, ("c.png", PNG), ("c.json", b'{"label": [1, 2]}')]),
    _shard("of labels of objects", [*_SOUND, ("c.png", PNG), ("c.json", b'{"label": {"a": 1}}')]),
    _shard("of labels not a number", [*_SOUND, ("c.png", PNG), ("c.json", b'{"label": NaN}')]),
    _shard("of a label of 5,000 digits", [*_SOUND, ("c.png", PNG), ("c.cls", b"9" * 5000)]),
    _shard("of labels with escapes", [("a.png", PNG), ("a.cls", ESCAPES.encode())]),
    _shard("of climbing names", [*_SOUND, ("../../c.png", PNG), ("../../c.cls", b"0")]),
    _shard("of absolute names", [*_SOUND, ("/tmp/c.png", PNG), ("/tmp/c.cls", b"0")]),
    _shard("of names with escapes", [*_SOUND, (ESCAPES.replace("\r\n", "") + ".png", PNG)]),
    _shard("of no images", [("a.cls", b"0")], (2,)),
    _shard("of no labels", [("a.png", PNG)], (2,)),
    _shard("of a picture twice", [("a.png", PNG), ("a.png", PNG), ("a.cls", b"0")]),
    _shard("of resource forks", [("._a.png", b"\0\5\26\7"), ("._a.cls", b"\0"), *_SOUND], (0,)),
    _shard("of a million members", [(f"{i}.cls", b"") for i in range(100_000)], (2,)),
    _shard("of long names", [*_SOUND, ("x" * 100_000 + ".png", PNG)], format=tarfile.GNU_FORMAT),
    _shard("of long headers", [*_SOUND, ("x" * 3_000_000 + ".png", PNG)], format=tarfile.PAX_FORMAT),
    _shard_of("of a device", _info("d", tarfile.CHRTYPE), (0, 2)),
    _shard_of("of a pipe", _info("p", tarfile.FIFOTYPE), (0, 2)),
    _shard_of("of a link", _info("l", tarfile.SYMTYPE, "/etc/passwd"), (0, 2)),
    _shard_of("of a hard link", _info("h", tarfile.LNKTYPE, "/etc/passwd"), (0, 2)),
    _shard_of("of a sparse file", _info("s", tarfile.GNUTYPE_SPARSE), (0, 2)),
    _shard_of("that claims more", _claims, (0, 2)),
    _shard_of("in gzip", _gzipped, (0, 2)),
    _shard_of("of a gigabyte in gzip", _gzip_bomb),
    _shard_of("empty", lambda p: p.touch()),
    _shard_of("of zeros", lambda p: p.write_bytes(bytes(10240))),
    _shard_of("of noise", lambda p: p.write_bytes(bytes(range(256)) * 40)),
    _shard_of("a pipe itself", lambda p: os.mkfifo(p)),
    _shard_of("a device itself", lambda p: p.symlink_to("/dev/zero")),
    _pattern("of a billion", "s-{0..999999999}.tar"),
    _pattern("of a huge number", "s-{0.." + "9" * 4000 + "}.tar"),
    _pattern("of many lists", "{a,b}" * 40 + ".tar"),
    _pattern("of many stars", "*" * 1000 + ".tar"),
    _classes("deep", DEEP),
    _classes("deep in objects", '{"a":' * 5000),
    _classes("of a huge number", "[" + "9" * 10_000 + "]"),
    _classes("of lists", "[[1], [2]]"),
    _classes("of null", "[null, null]"),
    _classes("of objects within", '{"0": {"a": 1}, "1": {}}'),
    _classes("of ids beyond", '{"1000000000": "a", "0": "b"}'),
    _classes("of ids below nought", '{"-1": "a", "0": "b"}'),
    _classes("of ids twice", '{"0": "a", "00": "b"}'),
    _classes("of one name", "cat\n"),
    _classes("of a name twice", "cat\ncat\n", (0, 2)),
    _classes("of names with escapes", f"{ESCAPES}\ncat\n", (0, 2)),
    _classes("of a name of a million", "x" * 10**6 + "\ncat\n", (0, 2)),
    _classes("of a million names", "\n".join(f"c{i}" for i in range(10**6)), (2,)),
    _classes("of code", "__import__('os').system('touch MARKER')\ncat\n", (0, 2)),
    _classes("of a list of code", "[__import__('os').system('touch MARKER'), 'cat']", (2,)),
    _classes("of a power", "[9**9**9, 'cat']", (2,)),
    _classes("empty", ""),
    _classes("of spaces", "\n \n"),
    _classes("of zeros", bytes(1000)),
    _classes("in UTF-16", "cat\ndog\n".encode("utf-16")),
    _templates("without a place", "a photo\n"),
    _templates("of two places", "{} {}\n"),
    _templates("of attributes", "{0.__class__}\n"),
    _templates("of a million", "{} a photo\n" * 10**6),
    _templates("of escapes", f"a photo of {{}} {ESCAPES.split(chr(13))[0]}\n", (0,)),
    _templates("deep", DEEP),
    _templates("of numbers", "[1, 2]"),
    _templates("of zeros", bytes(100)),
    Entry("target with escapes", _target, (0, 2)),
]


def _touched(path: Path) -> Path:
    path.touch()
    return path
