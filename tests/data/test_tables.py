"""Tables as people have them: any separator and spelling, several captions an image, and paths that lead astray."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.data.layouts import png
from unbackdoor.base.errors import InputError
from unbackdoor.data import load_images
from unbackdoor.data.captions import cell_captions, drawn
from unbackdoor.data.openpairs import open_pairs
from unbackdoor.data.paths import allow_outside


@pytest.fixture(autouse=True)
def _room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNBACKDOOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("unbackdoor.base.notices._SPOKEN", set())
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png(i))


def table(folder: Path, text: str, name: str = "t.csv") -> str:
    (folder / name).write_bytes(text.encode())
    return f"csv:{folder / name}"


# name of the file, its text, captions, names of the labels ("" without)
READ: list[tuple[str, str, list[object] | None, list[str]]] = [
    ("t.csv", "image,label\n0.png,cat\n1.png,dog\n", None, ["cat", "dog"]),
    ("t.csv", "filepath\ttitle\n0.png\ta cat\n1.png\ta dog, too\n", ["a cat", "a dog, too"], ["", ""]),
    ("t.tsv", "filepath\ttitle\n0.png\ta cat\n1.png\ta dog\n", ["a cat", "a dog"], ["", ""]),
    ("t.tsv", "image,label\n0.png,cat\n1.png,dog\n", None, ["cat", "dog"]),
    ("t.csv", "Image_Path;Class Name\n0.png;cat\n1.png;dog\n", None, ["cat", "dog"]),
    ("t.csv", "image_name| comment_number| comment\n0.png| 0| a cat\n0.png| 1| one\n", [("a cat", "one")], [""]),
    ("t.csv", '\ufeff"FilePath","Title"\r\n"0.png","a\ncat"\r\n"1.png","b"\r\n', ["a\ncat", "b"], ["", ""]),
    ("t.csv", "label,label_name,file_name\n1,cat,0.png\n0,dog,1.png\n", None, ["cat", "dog"]),
    ("t.csv", "image,caption\n0.png,one\n1.png,x\n0.png,two\n0.png,one\n", [("one", "two"), "x"], ["", ""]),
    ("t.csv", 'image,captions\n0.png,"[""one"", ""two""]"\n1.png,"[\'x\', \'y\']"\n',
     [("one", "two"), ("x", "y")], ["", ""]),
    ("t.csv", "image,label,caption\n0.png,cat,one\n0.png,dog,two\n", ["one", "two"], ["cat", "dog"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "captions", "labels"), READ)
def test_tables(name: str, text: str, captions: list[object] | None, labels: list[str], tmp_path: Path) -> None:
    data = load_images(table(tmp_path, text, name), side=8)
    assert (None if data.captions is None else list(data.captions)) == captions
    assert [data.classes[i] if i >= 0 else "" for i in data.labels.tolist()] == labels and data.skipped == 0


REFUSED = [
    ("url,caption\nx,y\n", "no image column; its first line should name one (image, image_path, img_path, …)"),
    ("a.png,cat\nb.png,dog\n", "reads 'a.png', 'cat'"),
    ("image,image,label\n0.png,1.png,0\n", "two columns are called image"),
    ("", "reads nothing"),
    ("image,label\n", "no rows"),
    ("image,label\n0.png,\udcff\n", "cannot be read"),
    ("image," + "c," * 600_000 + "\n0.png\n", "a line of more than"),
]


@pytest.mark.parametrize(("text", "said"), REFUSED, ids=[c[1][:20] for c in REFUSED])
def test_what_is_no_table_says_why(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as caught:
        load_images(f"csv:{tmp_path}/t.csv", side=8)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["/dev/zero", "pipe", "."])
def test_a_table_is_a_file(device: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for read in (load_images, open_pairs):
        with pytest.raises(InputError, match="no regular file"):
            read(f"csv:{tmp_path / device}", side=8)


ASTRAY = ["/etc/hostname", "/dev/zero", "../outside.png", "in/../../outside.png", "pipe.png", "link.png", "C:\\x.png",
          "http://127.0.0.1:9/x.png", "a\0b", "", "in", "huge.png", "x" * 5000]  # fmt: skip


@pytest.mark.parametrize("path", ASTRAY, ids=[p[:12] or "nothing" for p in ASTRAY])
def test_paths_that_lead_astray_are_left_out_and_named(
    path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "set"
    (root / "in").mkdir(parents=True)
    (tmp_path / "outside.png").write_bytes(png(9))
    (root / "0.png").write_bytes(png(0))
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    (root / "huge.png").touch()
    os.truncate(root / "huge.png", 1 << 40)
    os.mkfifo(root / "pipe.png")
    spec = table(root, f'image,label,caption\n0.png,0,"a"\n{path},1,b\n')
    data = load_images(spec, side=8)
    assert data.labels.tolist() == [0] and data.skipped == 1
    said = capsys.readouterr().err
    assert "1 pictures that cannot be read" in said
    if path.startswith(("/", "..", "in/")):
        assert "--allow-outside" in said and path in said
    assert open_pairs(spec, side=8).batch(torch.arange(2 if path else 1)).captions == ["a"]


def test_paths_may_lead_outside_where_the_user_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lists").mkdir()
    spec = table(tmp_path / "lists", f"image,caption\n../0.png,a\n{tmp_path}/1.png,b\n")
    with pytest.raises(InputError, match="could be read"):
        load_images(spec, side=8)
    with allow_outside():
        data, pairs = load_images(spec, side=8), open_pairs(spec, side=8)
    assert len(data) == 2 and pairs.batch(torch.arange(2)).captions == ["a", "b"]
    inside = table(tmp_path, f"image,caption\nlists/../0.png,a\n{tmp_path}/1.png,b\n.\\2.png,c\n")
    assert len(load_images(inside, side=8)) == 3


def test_one_of_several_captions_is_drawn_by_seed(tmp_path: Path) -> None:
    rows = "".join(f'{i % 3}.png,"[""a{i}"", ""b{i}"", ""c{i}""]"\n' for i in range(30))
    spec = table(tmp_path, f"image,caption\n{rows}")
    drawn_by = [open_pairs(spec, side=8, seed=seed).captions(torch.arange(30)) for seed in (0, 0, 1)]
    assert drawn_by[0] == drawn_by[1] != drawn_by[2] and len({c[0] for c in drawn_by[0]}) == 3
    assert [c[1:] for c in drawn_by[0]] == [str(i) for i in range(30)]
    assert drawn("alone", 5, 3) == "alone"


@pytest.mark.parametrize("cell", ["[a cat]", "[1, 2]", "[", "[]", "[" * 50_000 + "]" * 50_000, "['a', b]"])
def test_what_only_looks_like_a_list_is_a_sentence(cell: str) -> None:
    assert cell_captions(cell) == cell
