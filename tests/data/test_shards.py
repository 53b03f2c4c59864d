"""Shards as people pack them: dots in names, Macs, any order, several captions, broken objects."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.layouts import png
from unbackdoor.base.errors import InputError
from unbackdoor.data import load_images
from unbackdoor.data.openpairs import open_pairs


@pytest.fixture(autouse=True)
def _room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNBACKDOOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("unbackdoor.base.notices._SPOKEN", set())


def shard(path: Path, *members: tuple[str, bytes | str | int]) -> str:
    """Members by name; a number is a picture of that level of red."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            raw = (
                png(content) if isinstance(content, int) else content.encode() if isinstance(content, str) else content
            )
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return f"wds:{path}"


FORK = b"\0\5\26\7Mac OS X"
# members; (level, label or None, captions) of every picture; words of the warning
PACKED: list[tuple[str, list[tuple[str, bytes | str | int]], list[tuple[int, int | None, object]], str]] = [
    ("plain", [("a.png", 1), ("a.cls", "0"), ("b.png", 2), ("b.cls", "1")], [(1, 0, ""), (2, 1, "")], ""),
    ("newlines", [("a.png", 1), ("a.cls", "0\n"), ("b.png", 2), ("b.cls", " 1.0 ")], [(1, 0, ""), (2, 1, "")], ""),
    ("a dot more", [("a.final.png", 1), ("a.cls", "3")], [(1, 3, "")], ""),
    ("dots in names", [("v1.0.png", 1), ("v1.0.cls", "0"), ("v1.1.png", 2), ("v1.1.cls", "1")],
     [(1, 0, ""), (2, 1, "")], ""),
    ("dots, apart", [("v1.0.png", 1), ("v1.1.png", 2), ("v1.1.cls", "1"), ("v1.0.cls", "0")],
     [(1, 0, ""), (2, 1, "")], ""),
    ("another's label", [("a.1.png", 1), ("a.2.cls", "5")], [(1, None, "")], ""),
    ("two for one label", [("a.l.png", 1), ("a.r.png", 2), ("a.cls", "1"), ("b.png", 3), ("b.cls", "0")],
     [(3, 0, "")], "2 pictures beside others of one sample, of which its label may not speak (a.l, a.r)"),
    ("a thumb", [("a.png", 1), ("a.thumb.png", 2), ("a.cls", "1")], [(1, 1, "")], "(a.thumb)"),
    ("a Mac", [("./._a.png", FORK), ("./a.png", 1), ("./._a.cls", FORK), ("./a.cls", "2"), ("__MACOSX/b.png", FORK)],
     [(1, 2, "")], "3 hidden members"),
    ("folders", [("x/a.png", 1), ("x/a.cls", "0"), ("y/a.png", 2), ("y/a.cls", "1")], [(1, 0, ""), (2, 1, "")], ""),
    ("any order", [("a.cls", "0"), ("b.png", 2), ("a.png", 1), ("b.cls", "1")], [(1, 0, ""), (2, 1, "")], ""),
    ("lists", [("a.png", 1), ("a.json", '{"label": [4], "captions": ["x", "y", "x", ""]}')], [(1, 4, ("x", "y"))], ""),
    ("COCO", [("a.png", 1), ("a.json", '{"captions": [{"caption": "x", "id": 3}, {"caption": "y"}]}')],
     [(1, None, ("x", "y"))], ""),
    ("a list", [("a.png", 1), ("a.json", '["x", "y"]')], [(1, None, ("x", "y"))], ""),
    ("lines", [("a.png", 1), ("a.txt", "x\r\n\ny\n"), ("a.cls", "2")], [(1, 2, ("x", "y"))], ""),
    ("more of them", [("a.png", 1), ("a.txt", "x"), ("a.json", '{"captions": ["x", "y"]}')],
     [(1, None, ("x", "y"))], ""),
    ("numbers as floats", [("a.png", 1), ("a.json", '{"label": 3.0}')], [(1, 3, "")], ""),
    ("a broken object", [("a.png", 1), ("a.json", '{"label":' + "9" * 5000 + "}"), ("b.png", 2), ("b.txt", "a cat")],
     [(1, None, ""), (2, None, "a cat")], "1 objects that cannot be read; their pictures stay (a.json)"),
    ("a deep object", [("a.png", 1), ("a.json", "[" * 9000), ("b.png", 2), ("b.cls", "0")],
     [(1, None, ""), (2, 0, "")], "a.json"),
    ("no picture", [("a.cls", "1"), ("b.png", 2), ("b.cls", "0")], [(2, 0, "")], "1 samples without a picture (a)"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "members", "expected", "said"), PACKED, ids=[c[0] for c in PACKED])
def test_shards(
    name: str,
    members: list[tuple[str, bytes | str | int]],
    expected: list[tuple[int, int | None, object]],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = shard(tmp_path / "s.tar", *members)
    data = load_images(spec, side=8)
    captions = data.captions or [""] * len(data)
    labels = [None if i < 0 else i for i in data.labels.tolist()]
    found = list(zip(data.images[:, 0, 0, 0].tolist(), labels, captions, strict=True))
    assert sorted(found, key=str) == sorted(expected, key=str)
    warned = capsys.readouterr().err
    assert said in warned if said else not warned
    spoken: dict[int, Any] = {level: caption for level, _, caption in expected if caption}
    if spoken:  # the same as pairs
        pairs = open_pairs(spec, side=8)
        batch = pairs.batch(torch.arange(len(pairs)))
        levels = (batch.images[:, 0, 0, 0] * 255).round().int().tolist()
        assert sorted(levels) == sorted(spoken)
        for level, caption in zip(levels, batch.captions, strict=True):
            assert caption in (spoken[level] if isinstance(spoken[level], tuple) else (spoken[level],))


def test_an_unsorted_shard_gives_the_same_pairs(tmp_path: Path) -> None:
    members: list[tuple[str, bytes | str | int]] = []
    for i in range(40):
        members += [(f"{i}.png", i), (f"{i}.json", json.dumps({"caption": f"number {i}"})), (f"{i}.cls", "0")]
    random.Random(0).shuffle(members)
    pairs = open_pairs(shard(tmp_path / "s.tar", *members, ("x.png", 200), ("y.txt", "z")), side=8)
    batch = pairs.batch(torch.arange(len(pairs)))
    assert pairs.skipped == 2 and len(pairs) == 40
    assert batch.captions == [f"number {i}" for i in (batch.images[:, 0, 0, 0] * 255).round().int().tolist()]


REFUSED = [
    ("wds:{}/z.tar", "is packed with gzip"),
    ("wds:{}/{{0..999999999}}.tar", "more than 100,000 shards"),
    ("wds:{}/{{0..99999999999999999999}}.tar", "more than 100,000 shards"),
    ("wds:{}/" + "{{a,b}}" * 40 + ".tar", "more than 100,000 shards"),
    ("wds:{}/{{.tar", "no such shard"),
    ("wds:/dev/zero", "no such shard"),
    ("wds:" + "x" * 5000, "xxxxx"),
]


@pytest.mark.parametrize(("spec", "said"), REFUSED, ids=[c[0][:20] for c in REFUSED])
def test_what_is_no_shard_says_why(spec: str, said: str, tmp_path: Path) -> None:
    shard(tmp_path / "s.tar", ("a.png", 1), ("a.txt", "x"))
    (tmp_path / "z.tar").write_bytes(gzip.compress((tmp_path / "s.tar").read_bytes()))
    for read in (load_images, open_pairs):
        with pytest.raises(InputError) as caught:
            read(spec.format(tmp_path), side=8)
        assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_of_shards_and_what_a_mac_leaves_there(tmp_path: Path) -> None:
    shard(tmp_path / "s-0.tar", ("a.png", 1), ("a.cls", "0"))
    (tmp_path / "._s-0.tar").write_bytes(FORK)
    for spec in (f"wds:{tmp_path}", f"wds:{tmp_path}/*.tar", f"wds:{tmp_path}/s-{{0..0}}.tar"):
        assert len(load_images(spec, side=8)) == 1
