"""Parquet files as people have them, and as attackers would: what they become is told before they are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.data.layouts import png
from unbackdoor.base.errors import InputError
from unbackdoor.data import describe, load_images
from unbackdoor.data.footer import read_footer
from unbackdoor.data.openpairs import open_pairs
from unbackdoor.data.pages import chunk_cost

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def images(*levels: int) -> pa.Array:
    return pa.array([{"bytes": png(i), "path": None} for i in levels], STRUCT)


def write(path: Path, columns: dict[str, Any], features: dict[str, Any] | None = None, **how: Any) -> str:
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **how)
    return f"parquet:{path}"


def names(*words: str) -> dict[str, Any]:
    return {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(words)}}


# columns, features, (level, class) of every picture
READ: list[tuple[str, Callable[[], dict[str, Any]], dict[str, Any] | None, list[tuple[int, str]]]] = [
    ("labels", lambda: {"image": images(1, 2), "label": [1, 0]}, names("a", "b"), [(1, "b"), (2, "a")]),
    ("doubles", lambda: {"image": images(1, 2), "label": [float("nan"), 1.0]}, names("a", "b"), [(1, "-"), (2, "b")]),
    ("nulls", lambda: {"image": images(1, 2), "label": [None, 1]}, names("a", "b"), [(1, "-"), (2, "b")]),
    ("below nought", lambda: {"image": images(1, 2), "label": [-1, 1]}, names("a", "b"), [(1, "-"), (2, "b")]),
    ("texts", lambda: {"image": images(1, 2), "label": ["y", "x"]}, None, [(1, "y"), (2, "x")]),
    ("categories", lambda: {"image": images(1, 2), "label": pa.array(["y", "x"]).dictionary_encode()}, None,
     [(1, "y"), (2, "x")]),
    ("large", lambda: {"image": pa.array([png(1)], pa.large_binary()), "label": pa.array(["y"], pa.large_string())},
     None, [(1, "y")]),
    ("names beside numbers", lambda: {"image": images(1), "label": [5], "label_name": ["y"]}, None, [(1, "y")]),
    ("another name", lambda: {"picture": images(1), "animal": [1]},
     {"picture": {"_type": "Image"}, "animal": {"_type": "ClassLabel", "names": ["a", "b"]}}, [(1, "b")]),
    ("a struct", lambda: {"x": images(1), "label": ["y"]}, None, [(1, "y")]),
    ("two", lambda: {"mask": images(9), "image": images(1), "label": ["y"]}, None, [(1, "y")]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "columns", "features", "expected"), READ, ids=[c[0] for c in READ])
@pytest.mark.parametrize("group", [1, 1000])
def test_columns(
    name: str,
    columns: Callable[[], dict[str, Any]],
    features: dict[str, Any] | None,
    expected: list[tuple[int, str]],
    group: int,
    tmp_path: Path,
) -> None:
    data = load_images(write(tmp_path / "p.parquet", columns(), features, row_group_size=group), side=8)
    found = [data.classes[i] if i >= 0 else "-" for i in data.labels.tolist()]
    assert list(zip(data.images[:, 0, 0, 0].tolist(), found, strict=True)) == expected and data.skipped == 0


REFUSED: list[tuple[str, Callable[[], dict[str, Any]], dict[str, Any] | None, str]] = [
    ("two images", lambda: {"left": images(1), "right": images(1)}, None, "left, right are images each"),
    ("no image", lambda: {"evil": [1], "label": [0]}, None, "no image column"),
    ("structs", lambda: {"image": images(1), "label": [{"a": 1}]}, None, "labels must be whole numbers or names"),
    ("halves", lambda: {"image": images(1), "label": [0.5]}, None, "0.5 is no class number"),
    ("endless", lambda: {"image": images(1), "label": [float("inf")]}, None, "is no class number"),
    ("beyond", lambda: {"image": images(1), "label": [2]}, names("a", "b"), "label 2 has no name"),
    ("a word", lambda: {"image": images(1), "label": [0]},
     {"label": {"_type": "ClassLabel", "names": "cat"}}, "no list of at most"),
    ("two labels", lambda: {"image": images(1), "x": [0], "y": [0]},
     {k: {"_type": "ClassLabel", "names": ["a"]} for k in "xy"}, "x, y are labels each"),
    ("a long name", lambda: {"image": images(1), "label": ["x" * 100_000]}, None, "more than 65,536"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "columns", "features", "said"), REFUSED, ids=[c[0] for c in REFUSED])
def test_what_cannot_be_read_right_is_refused(
    name: str, columns: Callable[[], dict[str, Any]], features: dict[str, Any] | None, said: str, tmp_path: Path
) -> None:
    spec = write(tmp_path / "p.parquet", columns(), features)
    with pytest.raises(InputError) as caught:
        load_images(spec, side=8)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_class_lists_in_any_order_are_one_list(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", {"image": images(1, 2), "label": [0, 2]}, names("c", "b", "a"))
    write(tmp_path / "test-0.parquet", {"image": images(3, 4), "label": [0, 3]}, names("A", "b", "c", "d"))
    write(tmp_path / "test-1.parquet", {"label": [0, 1], "image": images(5, 6)}, names("b", "d"))
    for split, expected in (("train", [(1, "c"), (2, "a")]), ("test", [(3, "a"), (4, "d"), (5, "b"), (6, "d")])):
        data = load_images(f"parquet:{tmp_path}#{split}", side=8)
        found = [data.classes[i] for i in data.labels.tolist()]
        assert list(zip(data.images[:, 0, 0, 0].tolist(), found, strict=True)) == expected


def test_names_beside_numbers_of_other_files(tmp_path: Path) -> None:
    write(tmp_path / "x-0.parquet", {"image": images(1, 2), "label": [0, 1]}, names("b", "a"))
    write(tmp_path / "x-1.parquet", {"image": images(3), "label": ["a"]})
    data = load_images(f"parquet:{tmp_path}", side=8)
    assert [data.classes[i] for i in data.labels.tolist()] == ["b", "a", "a"]
    write(tmp_path / "x-1.parquet", {"image": images(3), "label": [0]})
    with pytest.raises(InputError, match="numbers without names"):
        load_images(f"parquet:{tmp_path}", side=8)


@pytest.mark.parametrize("train", [["2", "10"], ["2.0", "10.0"]])
def test_numbers_are_numbers_however_each_file_writes_them(train: list[str], tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", {"image": images(1, 2), "label": train})
    write(tmp_path / "test.parquet", {"image": images(3, 4, 5), "label": [10, 2, None]})
    for split, expected in (("train", [2, 10]), ("test", [10, 2, -1])):
        assert load_images(f"parquet:{tmp_path}#{split}", side=8).labels.tolist() == expected
    write(tmp_path / "train.parquet", {"image": images(1, 2), "label": ["a", "-1"]})
    with pytest.raises(InputError, match="numbers without names"):
        load_images(f"parquet:{tmp_path}#test", side=8)


def test_pictures_come_in_any_order_whatever_the_groups(tmp_path: Path) -> None:
    spec = write(tmp_path / "p.parquet", {"image": images(*range(200)), "label": list(range(200))}, row_group_size=33)
    data = load_images(spec, side=8)
    assert data.images[:, 0, 0, 0].tolist() == data.labels.tolist() == list(range(200))
    some = load_images(spec, side=8, limit=50, seed=3)
    assert some.images[:, 0, 0, 0].tolist() == some.labels.tolist() and len(some) == 50


@pytest.mark.parametrize("captions", [[["x", "y"], ["z"]], [[{"raw": "x"}, {"raw": "y"}], [{"raw": "z"}]]])
def test_caption_lists_are_kept(captions: list[Any], tmp_path: Path) -> None:
    spec = write(tmp_path / "p.parquet", {"image": images(1, 2), "captions": captions})
    assert load_images(spec, side=8).captions == (("x", "y"), "z")
    assert open_pairs(spec, side=8).captions(torch.arange(2))[1] == "z"


def test_a_split_picks_its_files_alone(tmp_path: Path) -> None:
    for name, level in (("data/Train-00000-of-00001", 1), ("data/validation-00000-of-00001", 2), (".cache/x", 3)):
        write(tmp_path / f"{name}.parquet", {"image": images(level), "caption": [name], "label": [0]})
    spec = f"parquet:{tmp_path}"
    assert describe(spec)["splits"] == {"train": 1, "validation": 1}
    assert load_images(spec, side=8, split="test").images[0, 0, 0, 0] == 2
    assert open_pairs(spec, side=8).captions(torch.arange(1)) == ["data/Train-00000-of-00001"]
    with pytest.raises(InputError, match="no split 'test'; it has train, validation"):
        open_pairs(spec, side=8, split="test")


def test_a_folder_of_save_to_disk_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "data-00000-of-00001.arrow").write_bytes(b"x")
    with pytest.raises(InputError, match="save_to_disk"):
        load_images(f"parquet:{tmp_path}", side=8)


# Bombs


def many_rows(path: Path) -> None:
    rows = 20_000_000
    image = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), pa.array(["a"])).cast(pa.string())
    write(path, {"image": image, "label": np.zeros(rows, np.int64)}, compression="zstd", row_group_size=rows)


def large_page(path: Path) -> None:
    write(path, {"image": pa.array([bytes(200 << 20)], pa.binary()), "label": [0]}, compression="zstd")


def one_long_value(path: Path) -> None:
    # 100,000 rows that name one value of 60 MiB: 6 TB.
    value = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(100_000, np.int32)), pa.array([bytes(60 << 20)], pa.binary())
    )
    write(
        path,
        {"image": value, "label": np.zeros(100_000, np.int64)},
        compression="zstd",
        dictionary_pagesize_limit=1 << 30,
    )


def long_lists(path: Path) -> None:
    word = pa.DictionaryArray.from_arrays(pa.array(np.zeros(100_000, np.int32)), pa.array(["x" * (1 << 20)]))
    lists = pa.ListArray.from_arrays(pa.array([0, 100_000], pa.int32()), word)
    write(path, {"image": images(1), "captions": lists}, compression="zstd", dictionary_pagesize_limit=1 << 30)


BOMBS = [
    (many_rows, "20,000,000 rows"),
    (large_page, "a page of 200 MiB"),
    (one_long_value, "MiB into"),
    (long_lists, "MiB into"),
]


@pytest.mark.parametrize(("make", "said"), BOMBS, ids=[c[0].__name__ for c in BOMBS])
def test_bombs_are_refused_before_they_burst(
    make: Callable[[Path], None], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "p.parquet")
    assert (tmp_path / "p.parquet").stat().st_size < 1 << 20
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(InputError, match=said):
        load_images(f"parquet:{tmp_path}/p.parquet", side=8, limit=40)
    assert pa.default_memory_pool().max_memory() <= max(before, 600 << 20)


def test_damage_anywhere_is_one_line(tmp_path: Path) -> None:
    """Every byte of header, pages and footer is changed in turn; nothing but an InputError or a sound answer comes."""
    path = tmp_path / "p.parquet"
    write(path, {"image": images(1, 2, 3), "label": [0, 1, 0]}, names("a", "b"))
    raw = path.read_bytes()
    odd = np.random.default_rng(0)
    for _ in range(400):
        broken = bytearray(raw)
        for at in odd.integers(0, len(raw), odd.integers(1, 4)):
            broken[at] = int(odd.integers(0, 256))
        path.write_bytes(bytes(broken[: len(raw) if odd.random() < 0.8 else int(odd.integers(0, len(raw)))]))
        try:
            load_images(f"parquet:{path}", side=8)
        except InputError as error:
            assert "\n" not in str(error)


def test_a_header_that_lies(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    write(
        path, {"image": pa.array([png(1)] * 2, pa.binary()), "label": [0, 1]}, use_dictionary=False, compression="NONE"
    )
    chunk = read_footer(path)[0].chunks[0]
    # All values of a page, each behind its length; before them stands, in a few bytes, which of them are null.
    assert 0 <= chunk_cost(path, chunk).largest - 2 * (len(png(1)) + 4) < 16
    raw = bytearray(path.read_bytes())
    at = chunk.start
    raw[at : at + 6] = b"\x15\x00\x15\xfe\xff\xff"  # its size, in a number that goes on
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"damaged|page of"):
        chunk_cost(path, chunk)


def test_thrift_is_bounded() -> None:
    from unbackdoor.data.thrift import Reader

    for raw in (
        b"\x1c" * 1000,
        b"\x19\xf5" + b"\xff" * 8,
        b"\x18\xff\xff\xff\xff\x7f",
        b"\x15" + b"\xff" * 20,
        b"\x1b\x01",
    ):
        with pytest.raises((EOFError, ValueError)):
            Reader(raw).struct()
    assert Reader(b"\x15\x06\x00").struct() == {1: 3}
