"""Sources that are odd but ordinary: ragged tables, single images, classes named like splits, mixed labels."""

from __future__ import annotations

import io
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.data.layouts import png
from unbackdoor.base.errors import InputError
from unbackdoor.data import describe, load_images, scenes
from unbackdoor.data.images import ImageSet
from unbackdoor.data.names import target_index


def table(folder: Path, rows: list[str], header: str = "image,label") -> str:
    for i in range(len(rows)):
        (folder / f"{i}.png").write_bytes(png(i))
    (folder / "t.csv").write_text("\n".join([header, *rows]), encoding="utf-8")
    return f"csv:{folder / 't.csv'}"


def parquet(file: Path, labels: list[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [{"bytes": png(), "path": None} for _ in labels], "label": labels}), file)


def shard(file: Path, labels: list[bytes], kind: str = "cls") -> None:
    with tarfile.open(file, "w") as tar:
        for i, label in enumerate(labels):
            for ending, content in (("png", png(i)), (kind, label)):
                member = tarfile.TarInfo(f"{i:03}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def test_a_forced_share_of_a_single_set_leaks_nothing(tmp_path: Path) -> None:
    spec = table(tmp_path, [f"{i}.png,a" for i in range(20)])
    train, test = (load_images(f"{spec}#{s}", side=8) for s in ("train", "test"))
    assert (len(train), len(test)) == (16, 4)
    assert not set(train.images[:, 0, 0, 0].tolist()) & set(test.images[:, 0, 0, 0].tolist())
    forced = load_images(f"{spec}#test", side=8, split="train")
    assert forced.content_hash() == test.content_hash() and forced.spec.endswith("#test")


@pytest.mark.parametrize("limit", [0, -1])
def test_limits_below_one_are_refused(limit: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 1"):
        load_images(table(tmp_path, ["0.png,a", "1.png,a"]), side=8, limit=limit)


def test_one_image_gives_no_test_share(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too few"):
        load_images(table(tmp_path, ["0.png,a"]), side=8, split="test")


@pytest.mark.parametrize(
    ("rows", "classes", "labels"),
    [
        (["0.png,0", "1.png,-1", "2.png,2"], (), [0, -1, 2]),
        (["0.png,²", "1.png,a"], ("a", "²"), [1, 0]),
        (["0.png,3", "1.png,cat"], ("3", "cat"), [0, 1]),
        (["0.png,", "1.png,cat"], ("cat",), [-1, 0]),
    ],
)
def test_labels_of_text_files(rows: list[str], classes: tuple[str, ...], labels: list[int], tmp_path: Path) -> None:
    data = load_images(table(tmp_path, rows), side=8)
    assert data.classes == classes and data.labels.tolist() == labels
    shard(tmp_path / "s.tar", [row.split(",")[1].encode() for row in rows])
    data = load_images(f"wds:{tmp_path / 's.tar'}", side=8)
    assert data.classes == classes and data.labels.tolist() == labels


@pytest.mark.parametrize("row", ["b", "a,x\0y.png", "a,"])
def test_a_ragged_row_is_skipped_and_counted(row: str, tmp_path: Path) -> None:
    data = load_images(table(tmp_path, ["a,0.png", row, "a,2.png"], "label,image"), side=8)
    assert (len(data), data.skipped) == (2, 1) and data.images[:, 0, 0, 0].tolist() == [0, 2]


@pytest.mark.parametrize("entry", [b"[" * 200_000, b'{"label": true}', b"not json"])
def test_an_odd_annotation_leaves_its_image_unlabelled(entry: bytes, tmp_path: Path) -> None:
    shard(tmp_path / "s.tar", [b'{"label": 0}', entry], kind="json")
    assert load_images(f"wds:{tmp_path / 's.tar'}", side=8).labels.tolist() == [0, -1]


def test_brace_lists(tmp_path: Path) -> None:
    shard(tmp_path / "a-0.tar", [b"0"])
    shard(tmp_path / "b-0.tar", [b"0", b"1"])
    assert len(load_images(f"wds:{tmp_path}/{{a,b}}-{{0..0}}.tar", side=8)) == 3


def test_string_labels_mean_the_same_in_every_split(tmp_path: Path) -> None:
    parquet(tmp_path / "train.parquet", ["a", "b", "c"])
    parquet(tmp_path / "test.parquet", ["a", "c"])
    data = load_images(f"parquet:{tmp_path}", side=8, split="test")
    assert data.classes == ("a", "b", "c") and data.labels.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (["data.parquet"], {"all": 1}),
        (["data-00000-of-00002.parquet", "data-00001-of-00002.parquet"], {"all": 2}),
        (["default/train/0000.parquet", "default/test/0000.parquet"], {"train": 1, "test": 1}),
        (["train_images.parquet", "validation0.parquet"], {"train": 1, "validation": 1}),
        (["valuable.parquet", "train.parquet"], {"valuable": 1, "train": 1}),
    ],
)
def test_splits_of_parquet_folders(files: list[str], splits: dict[str, int], tmp_path: Path) -> None:
    for file in files:
        parquet(tmp_path / file, ["a"])
    assert describe(f"parquet:{tmp_path}")["splits"] == splits


@pytest.mark.parametrize(
    ("files", "splits", "classes"),
    [
        (["car/0.png", "train/1.png"], {"all": 2}, ["car", "train"]),
        (["train/car/0.png", "val/car/1.png", "notes/2.png"], {"train": 1, "val": 1}, ["car"]),
        (["train/0.png", "test/1.png"], {"train": 1, "test": 1}, []),
    ],
)
def test_a_class_may_be_called_train(
    files: list[str], splits: dict[str, int], classes: list[str], tmp_path: Path
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(png())
    about = describe(f"folder:{tmp_path}")
    assert about["splits"] == splits and about["classes"] == classes


def test_sixteen_bit_grey_keeps_its_tones(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    tones = (np.arange(64) * 1023).astype(np.uint16).reshape(8, 8)
    Image.fromarray(tones).save(tmp_path / "a" / "0.png")
    image = load_images(f"folder:{tmp_path}", side=8).images[0, 0]
    assert torch.equal(image, torch.from_numpy((tones >> 8).astype(np.uint8)))


def test_decoding_leaves_the_warning_filters_alone(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for i in range(600):
        (tmp_path / "a" / f"{i}.png").write_bytes(png())
    before = list(warnings.filters)
    for _ in range(3):
        load_images(f"folder:{tmp_path}", side=8)
    assert list(warnings.filters) == before


def test_a_mask_picks_its_images() -> None:
    data = ImageSet(torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).repeat(1, 3, 2, 2), torch.tensor([0, 1, 0, 1]))
    assert data.subset(data.labels == 1).images[:, 0, 0, 0].tolist() == [1, 3]


def test_a_target_that_only_looks_like_a_number() -> None:
    with pytest.raises(InputError, match="not among"):
        target_index(("a", "b", "c"), "²")


def test_scenes_are_drawn_once_however_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, draw = [], scenes.draw
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.setattr(scenes, "draw", lambda seed, index: drawn.extend(index) or draw(seed, index))
    assert len(load_images("embedded:scenes", side=16, split="test", limit=64)) == 64
    assert len(drawn) == len(set(drawn)) > 0


@pytest.mark.parametrize(
    ("kind", "values", "classes", "labels"), [("string", ["b", "c"], ("a", "b", "c"), [1]), ("int64", [1, 2], (), [1])]
)
def test_hub_labels_without_class_names(
    kind: str, values: list[object], classes: tuple[str, ...], labels: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value(kind)})
    image = {"bytes": png(), "path": None}

    def part(images: list[object], labels: list[object]) -> object:
        return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)

    train = part([image], ["a" if kind == "string" else 0])
    both = datasets.DatasetDict({"train": train, "test": part([image, None], values)})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: both)
    data = load_images("hf:some/set", side=8)
    assert data.classes == classes and data.labels.tolist() == labels and data.skipped == 1
