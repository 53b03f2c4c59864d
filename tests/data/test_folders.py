"""Folders as people have them: litter, links, splits of any spelling, the well-known sets as they are unzipped."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from unbackdoor.base.errors import InputError
from unbackdoor.data import describe, load_images
from unbackdoor.data import walk as walks

_OUT = io.BytesIO()
Image.new("RGB", (8, 8), (9, 9, 9)).save(_OUT, "PNG")
PNG = _OUT.getvalue()


def tree(root: Path, *files: str) -> str:
    """Pictures by their paths."""
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PNG)
    return f"folder:{root}"


def text(root: Path, name: str, content: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(content)


@pytest.fixture(autouse=True)
def _fresh_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unbackdoor.base.notices._SPOKEN", set())


CAT_DOG = ("cat/0.png", "dog/1.png")
# name, pictures, classes, sizes of the splits, counts of the split that is evaluated, words of the warning
LAYOUTS: list[tuple[str, tuple[str, ...], list[str], dict[str, int], dict[str, int], str]] = [
    ("plain", CAT_DOG, ["cat", "dog"], {"all": 2}, {"cat": 1, "dog": 1}, ""),
    (
        "litter",
        (*CAT_DOG, "__MACOSX/cat/0.png", ".ipynb_checkpoints/0.png", "@eaDir/0.png", "cat/._0.png", "cat/@eaDir/t.png"),
        ["cat", "dog"],
        {"all": 2},
        {"cat": 1, "dog": 1},
        "3 entries of file managers and archives (@eaDir, __MACOSX, cat/@eaDir)",
    ),
    ("numbers", tuple(f"{i}/0.png" for i in range(12)), [str(i) for i in range(12)], {"all": 12}, {}, ""),
    ("split names", ("Training/a/0.png", "Testing/a/0.png"), ["a"], {"train": 1, "test": 1}, {"a": 1}, ""),
    ("one spelling", ("train/red_star/0.png", "VAL/Red Star/0.png"), ["red_star"], {"train": 1, "val": 1}, {}, ""),
    ("padded numbers", ("train/3/0.png", "test/0003/0.png"), ["3"], {"train": 1, "test": 1}, {"3": 1}, ""),
    ("archive's folder", tuple(f"pets/{f}" for f in CAT_DOG), ["cat", "dog"], {"all": 2}, {}, "inner folder pets"),
    ("two of them", tuple(f"a/b/train/{f}" for f in CAT_DOG), ["cat", "dog"], {"train": 2}, {}, "inner folder a/b"),
    ("one class", ("cat/0.png",), ["cat"], {"all": 1}, {"cat": 1}, ""),
    ("beside splits", ("train/a/0.png", "test/a/0.png", "b/0.png"), ["a"], {"train": 1, "test": 1}, {}, "(b)"),
    (
        "GTSRB",
        ("GTSRB/Final_Training/Images/00000/0.ppm", "GTSRB/Final_Training/Images/00014/0.ppm"),
        ["00000", "00014"],
        {"train": 2},
        {},
        "inner folder GTSRB",
    ),
    ("pictures alone", ("images/0.png", "images/1.png"), [], {"all": 2}, {}, ""),
]


@pytest.mark.parametrize(("name", "files", "classes", "splits", "counts", "said"), LAYOUTS, ids=[c[0] for c in LAYOUTS])
def test_layouts(
    name: str,
    files: tuple[str, ...],
    classes: list[str],
    splits: dict[str, int],
    counts: dict[str, int],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    about = describe(tree(tmp_path / "d", *files))
    assert (about["classes"], about["splits"]) == (classes, splits)
    assert not counts or about["counts"] == counts
    warned = capsys.readouterr().err
    assert said in warned if said else not warned


def tiny(root: Path) -> None:
    tree(root, *(f"train/n0{i}/images/n0{i}_0.JPEG" for i in (1, 2)))
    tree(root, *(f"val/images/val_{i}.JPEG" for i in range(3)), "test/images/test_0.JPEG")
    text(root, "train/n01/n01_boxes.txt", "n01_0.JPEG\t0\t0\t1\t1\n")
    text(root, "val/val_annotations.txt", "val_0.JPEG\tn02\t0\t0\t1\t1\nval_1.JPEG\tn01\t0\t0\t1\t1\nval_2.JPEG\tn09\n")
    text(root, "wnids.txt", "n02\nn01\n")


def kaggle(root: Path) -> None:
    inner = root / "ILSVRC" / "Data" / "CLS-LOC"
    tree(inner, "train/n01/n01_0.JPEG", "train/n02/n02_0.JPEG", "val/V_1.JPEG", "val/V_2.JPEG", "test/T_1.JPEG")
    text(root, "ILSVRC/Annotations/CLS-LOC/val/V_1.xml", "<x/>")
    text(root, "LOC_val_solution.csv", "ImageId,PredictionString\nV_1,n02 1 2 3 4 n02 5 6 7 8\nV_2,n01 1 2 3 4\n")


def signs(root: Path) -> None:
    tree(root, "Train/0/0.png", "Train/14/0.png", "Train/2/0.png", "Test/00000.png", "Test/00001.png", "Meta/0.png")
    text(root, "Test.csv", "Width,Height,ClassId,Path\n5,5,14,Test/00000.png\n5,5,2,Test/00001.png\n")


def benchmark(root: Path) -> None:
    tree(root / "GTSRB", *(f"Final_Training/Images/0000{i}/0.ppm" for i in range(3)), "Final_Test/Images/00000.ppm")
    text(root, "GTSRB/Final_Test/Images/GT-final_test.csv", "Filename;Width;ClassId\n00000.ppm;5;2\n")


ANNOTATED: list[tuple[Callable[[Path], None], str, list[str]]] = [
    (tiny, "val_2.JPEG) have no class", ["n02", "n01", "-"]),
    (kaggle, "labels of val from LOC_val_solution.csv", ["n02", "n01"]),
    (signs, "labels of test from Test.csv", ["14", "2"]),
    (benchmark, "labels of test from GT-final_test.csv", ["00002"]),
]


@pytest.mark.parametrize(("make", "said", "labels"), ANNOTATED, ids=[c[0].__name__ for c in ANNOTATED])
def test_unsorted_splits_take_their_labels_from_the_file_of_their_set(
    make: Callable[[Path], None], said: str, labels: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "set")
    data = load_images(f"folder:{tmp_path}/set", side=8)  # evaluation reads the labelled split
    assert [data.classes[i] if i >= 0 else "-" for i in data.labels.tolist()] == labels
    assert said in capsys.readouterr().err


def test_an_unsorted_split_without_labels_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny(tmp_path)
    (tmp_path / "val" / "val_annotations.txt").unlink()
    for split in ("val", "test"):
        assert load_images(f"folder:{tmp_path}#{split}", side=8).labels.unique().tolist() == [-1]
    assert describe(f"folder:{tmp_path}#train")["classes"] == ["n01", "n02"]
    assert "the pictures of val lie unsorted" in capsys.readouterr().err


def test_a_list_of_names_beside_numbered_folders_names_them(tmp_path: Path) -> None:
    tree(tmp_path, "train/0/a.png", "train/2/a.png", "test/2/a.png", "test/10/a.png")
    text(tmp_path, "labels.txt", "\n".join("abcdefghijk"))
    assert describe(f"folder:{tmp_path}")["classes"] == ["a", "c", "k"]
    text(tmp_path, "labels.txt", "\n".join("abc"))
    assert describe(f"folder:{tmp_path}")["classes"] == ["0", "2", "10"]


def batches(root: Path) -> None:
    text(root, "cifar-10-batches-py/data_batch_1", "x")


def strangers(root: Path) -> None:
    tree(root, "train/a/0.png", "test/b/0.png", "test/c/0.png")


def one_split_twice(root: Path) -> None:
    tree(root, "train/a/0.png", "Training/a/0.png")


def one_folder_twice(root: Path) -> None:
    tree(root, "cat/0.png")
    (root / "dog").symlink_to(root / "cat")


REFUSED: list[tuple[Callable[[Path], None], str]] = [
    (batches, "Python pickles"),
    (strangers, "no folder of test (b, c) is a class of train (a)"),
    (one_split_twice, "are both train"),
    (one_folder_twice, "are one folder"),
]


@pytest.mark.parametrize(("make", "said"), REFUSED, ids=[c[0].__name__ for c in REFUSED])
def test_what_cannot_be_right_is_refused(make: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    make(tmp_path / "d")
    with pytest.raises(InputError) as caught:
        describe(f"folder:{tmp_path}/d")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_links_are_followed_where_they_do_no_harm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree(tmp_path / "all", "cat/0.png", "dog/0.png", "dog/1.png")
    root = tmp_path / "subset"
    tree(root, "emu/0.png")
    (root / "dog").symlink_to(tmp_path / "all" / "dog")  # a class elsewhere
    (root / "emu" / "again").symlink_to(root)  # a circle
    (root / "emu" / "1.png").symlink_to(root / "emu" / "0.png")
    (root / "emu" / "out.png").symlink_to(tmp_path / "all" / "cat" / "0.png")
    (root / "emu" / "out").symlink_to(tmp_path / "all" / "cat")
    (root / "emu" / "self.png").symlink_to("self.png")
    (root / "emu" / "dev.png").symlink_to("/dev/zero")
    (root / "up").symlink_to(tmp_path)
    os.mkfifo(root / "emu" / "pipe.png")
    data = load_images(f"folder:{root}", side=8)
    assert data.classes == ("dog", "emu") and data.labels.tolist() == [0, 0, 1, 1]
    said = capsys.readouterr().err
    assert "links that lead out of the folder (" in said and "emu/pipe.png" in said


def test_entries_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tree(tmp_path, *(f"a/{i}.png" for i in range(20)), *(f"b/{'x/' * 40}{i}.png" for i in range(2)))
    assert len(load_images(spec, side=8)) == 20
    monkeypatch.setattr(walks, "MOST_ENTRIES", 10)
    with pytest.raises(InputError, match="more than 10 entries"):
        load_images(spec, side=8)


def test_pictures_that_cannot_be_read_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tree(tmp_path, *CAT_DOG)
    (tmp_path / "cat" / "bad.png").write_text("no")
    (tmp_path / "cat" / "huge.png").touch()
    os.truncate(tmp_path / "cat" / "huge.png", 1 << 40)
    assert load_images(spec, side=8).skipped == 2
    assert "2 pictures that cannot be read (cat/bad.png, cat/huge.png)" in capsys.readouterr().err
