"""Every kind of source, built small in a temporary folder."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.conftest import needs_real_data, real_data
from unbackdoor.base.errors import InputError
from unbackdoor.data import describe, load_images

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
NAMES = sorted(COLOURS)


def png(colour: str, side: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), COLOURS[colour]).save(buffer, format="PNG")
    return buffer.getvalue()


RECORDS = [(NAMES[i % 3], png(NAMES[i % 3])) for i in range(9)]


def make_parquet(folder: Path, records: list[tuple[str, bytes]], name: str = "data.parquet") -> str:
    features = {"info": {"features": {"label": {"names": NAMES, "_type": "ClassLabel"}}}}
    table = pa.table(
        {
            "image": [{"bytes": raw, "path": None} for _, raw in records],
            "label": [NAMES.index(c) for c, _ in records],
        },
        metadata=None,
    ).replace_schema_metadata({"huggingface": json.dumps(features)})
    folder.mkdir(exist_ok=True, parents=True)
    pq.write_table(table, folder / name)
    return f"parquet:{folder / name}"


def make_folder(folder: Path, records: list[tuple[str, bytes]]) -> str:
    for i, (colour, raw) in enumerate(records):
        (folder / colour).mkdir(parents=True, exist_ok=True)
        (folder / colour / f"{i:03}.png").write_bytes(raw)
    return f"folder:{folder}"


def make_csv(folder: Path, records: list[tuple[str, bytes]]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["image,label,caption"]
    for i, (colour, raw) in enumerate(records):
        (folder / f"{i}.png").write_bytes(raw)
        lines.append(f"{i}.png,{colour},a {colour} square")
    (folder / "table.csv").write_text("\n".join(lines))
    return f"csv:{folder / 'table.csv'}"


def make_wds(folder: Path, records: list[tuple[str, bytes]]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(2):
        with tarfile.open(folder / f"s-{shard:02}.tar", "w") as tar:
            for i, (colour, raw) in list(enumerate(records))[shard::2]:
                entry = json.dumps({"label": colour, "captions": [f"a {colour} square", "other"]}).encode()
                for kind, content in (("png", raw), ("json", entry)):
                    member = tarfile.TarInfo(f"{i:03}.{kind}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return f"wds:{folder}/s-{{00..01}}.tar"


Make = Callable[[Path, list[tuple[str, bytes]]], str]
KINDS: dict[str, Make] = {"parquet": make_parquet, "folder": make_folder, "csv": make_csv, "wds": make_wds}


@pytest.fixture(params=list(KINDS))
def make(request: pytest.FixtureRequest) -> Make:
    return KINDS[request.param]


def test_pixels_and_labels_agree(make: Make, tmp_path: Path) -> None:
    data = load_images(make(tmp_path / "d", RECORDS), side=16)
    assert data.images.shape == (9, 3, 16, 16) and data.images.dtype == torch.uint8
    assert data.classes == tuple(NAMES) and data.skipped == 0
    for image, label in zip(data.images, data.labels, strict=True):
        assert tuple(image[:, 0, 0].tolist()) == COLOURS[data.classes[int(label)]]


def test_an_unreadable_image_in_the_middle_is_skipped_and_counted(make: Make, tmp_path: Path) -> None:
    broken = [*RECORDS[:4], ("red", b"\x89PNG but not really"), *RECORDS[4:]]
    data = load_images(make(tmp_path / "d", broken), side=8)
    assert len(data) == 9 and data.skipped == 1
    for image, label in zip(data.images, data.labels, strict=True):
        assert tuple(image[:, 0, 0].tolist()) == COLOURS[data.classes[int(label)]]


def test_nothing_readable_is_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="could be read"):
        load_images(make(tmp_path / "d", [("red", b"no"), ("blue", b"nope")]), side=8)


def test_a_single_set_is_shared_out_without_overlap(make: Make, tmp_path: Path) -> None:
    records = [(c, png(c, side)) for side in range(4, 24) for c in NAMES]
    spec = make(tmp_path / "d", records)
    train, test, whole = (load_images(spec, side=8, split=s) for s in ("train", "test", None))
    assert (len(train), len(test), len(whole)) == (48, 12, 60)
    assert train.labels.bincount().tolist() != [0, 0, 0]


def test_captions_come_along(tmp_path: Path) -> None:
    for kind in ("csv", "wds"):
        data = load_images(KINDS[kind](tmp_path / kind, RECORDS), side=8)
        assert data.captions is not None
        for caption, label in zip(data.captions, data.labels, strict=True):
            said = f"a {data.classes[int(label)]} square"
            assert caption == (said if kind == "csv" else (said, "other"))


def test_limit_draws_a_stable_subset(make: Make, tmp_path: Path) -> None:
    spec = make(tmp_path / "d", RECORDS)
    a, b, c = (load_images(spec, side=8, limit=4, seed=s) for s in (0, 0, 5))
    assert len(a) == 4 and a.content_hash() == b.content_hash() != c.content_hash()


def test_named_splits(tmp_path: Path) -> None:
    make_parquet(tmp_path / "d", RECORDS, "train-00000-of-00002.parquet")
    make_parquet(tmp_path / "d", RECORDS, "train-00001-of-00002.parquet")
    make_parquet(tmp_path / "d", RECORDS[:3], "val.parquet")
    spec = f"parquet:{tmp_path / 'd'}"
    assert [len(load_images(spec, side=8, split=s)) for s in ("train", "test", None)] == [18, 3, 3]
    assert len(load_images(f"{spec}#train", side=8)) == 18
    with pytest.raises(InputError, match="no split 'dev'; it has train, val"):
        load_images(f"{spec}#dev", side=8)
    assert describe(spec)["splits"] == {"train": 18, "val": 3}


def test_class_file(tmp_path: Path) -> None:
    spec = make_parquet(tmp_path / "d", RECORDS)
    own = load_images(spec, side=8)
    (tmp_path / "other-order.txt").write_text("\n".join(reversed(NAMES)))
    reordered = load_images(spec, side=8, classes=str(tmp_path / "other-order.txt"))
    assert reordered.classes == tuple(reversed(NAMES)) and torch.equal(reordered.labels, 2 - own.labels)
    (tmp_path / "names.txt").write_text("one\ntwo\nthree\n")
    with pytest.raises(InputError, match=r"0: 'blue' and 'one', 1: 'green' and 'two'.* not matched by position"):
        load_images(spec, side=8, classes=str(tmp_path / "names.txt"))
    (tmp_path / "names.json").write_text(json.dumps({"red": "one", "green": "two", "blue": "three"}))
    renamed = load_images(spec, side=8, classes=str(tmp_path / "names.json"))
    assert renamed.classes == ("one", "two", "three") and torch.equal(renamed.labels, 2 - own.labels)


def test_a_path_may_hold_a_hash(tmp_path: Path) -> None:
    spec = make_folder(tmp_path / "set#2", RECORDS)
    assert len(load_images(spec, side=8)) == len(RECORDS)
    assert 0 < len(load_images(f"{spec}#test", side=8)) < len(RECORDS)


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("nothing", "not a data source"),
        ("tape:x", "not a data source"),
        ("folder:", "nothing after the colon"),
        ("folder:/does/not/exist", "no such folder"),
        ("parquet:/does/not/exist", "no such file"),
        ("csv:/does/not/exist.csv", "cannot be read"),
        ("wds:/does/not/exist.tar", "no such shard"),
        ("embedded:faces", "no such embedded data"),
        ("embedded:digits#dev", "no split 'dev'"),
    ],
)
def test_bad_specs_say_what_is_wrong(spec: str, part: str) -> None:
    with pytest.raises(InputError) as caught:
        load_images(spec, side=8)
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_files(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 but short")
    with pytest.raises(InputError, match="is no Parquet file"):
        load_images(f"parquet:{tmp_path / 'x.parquet'}", side=8)
    (tmp_path / "x.tar").write_bytes(b"\0" * 100 + b"x" * 2000)
    with pytest.raises(InputError, match="not a readable tar"):
        load_images(f"wds:{tmp_path / 'x.tar'}", side=8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images"):
        load_images(f"folder:{tmp_path / 'empty'}", side=8)


def test_a_decompression_bomb_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    data = load_images(make_folder(tmp_path / "d", [*RECORDS, ("red", png("red", 100))]), side=8)
    assert len(data) == 9 and data.skipped == 1


def test_what_a_name_hides_is_not_opened(tmp_path: Path) -> None:
    """A picture by its name, PostScript by its content: Pillow would hand it to another program."""
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n%%EOF\n"
    assert Image.open(io.BytesIO(script)).format == "EPS"
    data = load_images(make_folder(tmp_path / "d", [*RECORDS, ("red", script)]), side=8)
    assert len(data) == 9 and data.skipped == 1


def test_float_batch_and_subset() -> None:
    data = load_images("embedded:digits", side=16, split="test")
    part = data.subset([3, 1])
    assert torch.equal(part.images[1], data.images[1]) and part.labels.tolist() == data.labels[[3, 1]].tolist()
    batch = data.float_batch([3])
    assert batch.dtype == torch.float32 and float(batch.min()) >= 0 and float(batch.max()) <= 1
    assert np.array_equal((batch[0] * 255).round().to(torch.uint8).numpy(), data.images[3].numpy())


@needs_real_data
@pytest.mark.parametrize(
    ("name", "train", "test", "classes"),
    [("cifar10", 20_000, 5_000, 10), ("gtsrb", 6_303, 2_027, 43), ("tiny-imagenet-200", 60_000, 5_000, 200)],
)
def test_real_data_sets(name: str, train: int, test: int, classes: int) -> None:
    spec = f"parquet:{real_data()}/{name}"
    about = describe(spec)
    assert len(about["classes"]) == classes and about["splits"]["train"] == train
    data = load_images(spec, side=64, split="test", limit=32)
    assert len(data) == 32 and data.skipped == 0 and sum(about["counts"].values()) == test
