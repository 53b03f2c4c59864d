"""Caption pairs: what is read, what is left out, in which order, and in how much memory."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.conftest import needs_real_data, real_data
from unbackdoor.attacks.pair_poisoning import _word, choose_victims
from unbackdoor.base.errors import InputError
from unbackdoor.data.images import ImageSet
from unbackdoor.data.openpairs import open_pairs
from unbackdoor.data.pairs import ImagePairs, Wording
from unbackdoor.data.stream import PairStream
from unbackdoor.triggers import parse_trigger


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNBACKDOOR_CACHE", str(tmp_path / "cache"))


def png(value: int, side: int = 4) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value % 256, dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def shard(path: Path, numbers: range) -> Path:
    members = []
    for i in numbers:
        members += [(f"{i:07d}.png", png(i)), (f"{i:07d}.txt", f"number {i}".encode())]
    return write_tar(path, members)


def wds(tmp_path: Path) -> str:
    for i in range(3):
        shard(tmp_path / f"s-{i}.tar", range(10 * i, 10 * i + 10))
    return f"wds:{tmp_path}/s-{{0..2}}.tar"


def table(tmp_path: Path) -> str:
    with (tmp_path / "pairs.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(["title", "filepath"])
        for i in range(30):
            (tmp_path / f"{i}.png").write_bytes(png(i))
            writer.writerow([f"number {i}" if i % 3 else f' number {i},\n "quoted" ü', f"{i}.png"])
    return f"csv:{tmp_path}/pairs.csv"


def tabbed(tmp_path: Path) -> str:
    lines = ["image\tcaption"]
    for i in range(30):
        (tmp_path / f"{i}.png").write_bytes(png(i))
        lines.append(f"{i}.png\tnumber {i}")
    (tmp_path / "pairs.tsv").write_text("\n".join(lines))
    return f"csv:{tmp_path}/pairs.tsv"


def parquet(tmp_path: Path) -> str:
    rows = {
        "image": [{"bytes": png(i), "path": None} for i in range(30)],
        "caption": [f"number {i}" for i in range(30)],
    }
    pq.write_table(pa.table(rows), tmp_path / "pairs.parquet", row_group_size=7)
    return f"parquet:{tmp_path}/pairs.parquet"


SOURCES = {"wds": wds, "csv": table, "tsv": tabbed, "parquet": parquet}


@pytest.mark.parametrize("kind", SOURCES)
def test_streams_give_every_pair_whole(kind: str, tmp_path: Path) -> None:
    pairs = open_pairs(SOURCES[kind](tmp_path), side=4)
    assert isinstance(pairs, PairStream) and len(pairs) == 30 and pairs.skipped == 0
    found = pairs.batch(torch.arange(30))
    assert [int(c.split()[1].strip(",")) for c in found.captions] == list(range(30))
    assert (found.images[:, 0, 0, 0] * 255).round().long().tolist() == list(range(30))
    assert found.images.shape == (30, 3, 4, 4) and found.groups.tolist() == [-1] * 30
    assert found.captions == pairs.captions(torch.arange(30))
    backwards = pairs.batch(torch.arange(29, -1, -1))
    assert torch.equal(backwards.images, found.images.flip(0)) and backwards.captions == found.captions[::-1]


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("batch", [1, 4, 30, 64])
def test_an_epoch_shows_every_pair_once_and_another_order_than_the_last(kind: str, batch: int, tmp_path: Path) -> None:
    pairs = open_pairs(SOURCES[kind](tmp_path), side=4)
    steps = -(-30 // batch)
    epochs = [torch.cat([pairs.rows(batch, 5, e * steps + s) for s in range(steps)]).tolist() for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(30))
    assert epochs[0] != epochs[1]
    assert torch.cat(list(pairs.chunks(4))).tolist() == list(range(30))
    # A reader that begins in the middle sees what it would have seen.
    again = open_pairs(SOURCES[kind](tmp_path), side=4)
    assert again.rows(batch, 5, steps).tolist() == pairs.rows(batch, 5, steps).tolist()
    assert again.content_hash() == pairs.content_hash()


@pytest.mark.parametrize(("limit", "of_each"), [(3, [1, 1, 1]), (15, [5, 5, 5]), (31, [10, 10, 10])])
def test_a_limit_takes_the_same_share_of_every_shard(limit: int, of_each: list[int], tmp_path: Path) -> None:
    pairs = open_pairs(wds(tmp_path), side=4, limit=limit)
    rows = torch.cat(list(pairs.chunks()))
    assert [int(((rows // 10) == i).sum()) for i in range(3)] == of_each and len(pairs) == sum(of_each)
    assert sorted(torch.cat([pairs.rows(2, 0, s) for s in range(-(-len(pairs) // 2))]).tolist()) == rows.tolist()


def test_blocks_mix_within_a_window_and_across_the_file(tmp_path: Path) -> None:
    """A single big shard: the first batch of an epoch must not be the beginning of the file."""
    from unbackdoor.data.stream import Part, Parts

    pairs = PairStream("mine", Parts([Part("a", 100_000, lambda: None)], 0, 100, 4), 4)  # type: ignore[arg-type, return-value]
    rows = pairs.rows(64, 0, 0)
    assert len(set((rows // 100).tolist())) >= 6 and int(rows.max()) > 10_000
    assert len(set(torch.cat([pairs.rows(64, 0, s) for s in range(1563)]).tolist())) == 100_000


BROKEN = [
    ("no caption", [("a.png", png(1))], 1),
    ("empty caption", [("a.png", png(1)), ("a.txt", b" ")], 1),
    ("no image", [("a.txt", b"words")], 1),
    ("json without a caption", [("a.png", png(1)), ("a.json", b'{"x": 1}')], 1),
    ("broken json", [("a.png", png(1)), ("a.json", b"{")], 1),
    ("empty image", [("a.png", b""), ("a.txt", b"words")], 1),
    ("label alone", [("a.png", png(1)), ("a.cls", b"3")], 1),
]


@pytest.mark.parametrize(("name", "members", "skipped"), BROKEN, ids=[b[0] for b in BROKEN])
def test_broken_samples_are_left_out_and_counted(
    name: str, members: list[tuple[str, bytes]], skipped: int, tmp_path: Path
) -> None:
    good = [("b.png", png(2)), ("b.json", b'{"captions": ["first", "second"]}')]
    write_tar(tmp_path / "s.tar", [*members, *good, ("c.d.txt", b"x")][:-1])
    pairs = open_pairs(f"wds:{tmp_path}/s.tar", side=4)
    assert (len(pairs), pairs.skipped, pairs.captions(torch.tensor([0]))) == (1, skipped, ["first"])


def test_images_that_cannot_be_decoded_are_counted_once_when_met(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", [("a.png", b"nonsense"), ("a.txt", b"words"), ("b.png", png(9)), ("b.txt", b"more")])
    pairs = open_pairs(f"wds:{tmp_path}/s.tar", side=4)
    assert len(pairs) == 2 and pairs.skipped == 0
    for _ in range(2):
        found = pairs.batch(torch.tensor([0, 1]))
        assert found.captions == ["more"] and found.keys.tolist() == [1] and len(found.images) == 1
    assert pairs.skipped == 1
    assert len(pairs.batch(torch.tensor([0])).keys) == 0


@pytest.mark.parametrize("cut", [100, 600, 1100, 1500])
def test_a_cut_shard_loses_its_last_sample_alone(cut: int, tmp_path: Path) -> None:
    whole = shard(tmp_path / "s.tar", range(5)).read_bytes()
    with tarfile.open(tmp_path / "s.tar") as tar:
        last = [m.offset for m in tar.getmembers()][-2:]
    (tmp_path / "s.tar").write_bytes(whole[: last[0] + cut])
    pairs = open_pairs(f"wds:{tmp_path}/s.tar", side=4)
    assert len(pairs) == 4 and pairs.skipped == 1
    assert len(pairs.batch(torch.arange(4)).captions) == 4


def test_a_damaged_header_ends_the_shard_and_is_counted(tmp_path: Path) -> None:
    whole = bytearray(shard(tmp_path / "s.tar", range(5)).read_bytes())
    with tarfile.open(tmp_path / "s.tar") as tar:
        offset = tar.getmembers()[4].offset
    whole[offset : offset + 512] = b"x" * 512
    (tmp_path / "s.tar").write_bytes(whole)
    pairs = open_pairs(f"wds:{tmp_path}/s.tar", side=4)
    assert len(pairs) == 2 and pairs.skipped == 1


def test_rows_of_a_table_without_image_or_caption_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(3))
    text = "image,caption\na.png,one\n,two\na.png,\na.png\n\nmissing.png,three\na.png,fo\0ur\n"
    (tmp_path / "t.csv").write_text(text)
    pairs = open_pairs(f"csv:{tmp_path}/t.csv", side=4)
    assert len(pairs) == 3 and pairs.skipped == 3
    found = pairs.batch(torch.arange(3))
    assert found.captions == ["one", "fo\ufffdur"] and pairs.skipped == 4


BAD = [
    ("wds:{}/none.tar", {}, "no such shard"),
    ("wds:{}/text.tar", {}, "not a readable tar"),
    ("wds:{}/empty.tar", {}, "holds no readable pair"),
    ("csv:{}/none.csv", {}, "cannot be read"),
    ("csv:{}/noimage.csv", {}, "no image column"),
    ("wds:{}/s.tar#test", {}, "pairs are read whole"),
    ("wds:{}/s.tar", {"limit": 0}, "at least 1"),
    ("embedded:digits", {"captions": "{}/none.json"}, "cannot be read as captions"),
    ("embedded:digits", {"captions": "{}/other.json"}, "speaks of none of the 10 classes"),
    ("embedded:digits", {"captions": "{}/form.json"}, "expected a list of sentences"),
    ("nosuch:x", {}, "not a data source"),
]


@pytest.mark.parametrize(("spec", "options", "part"), BAD, ids=[b[2] for b in BAD])
def test_bad_input_is_told_in_one_line(spec: str, options: dict[str, object], part: str, tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("no tar" * 200)
    write_tar(tmp_path / "empty.tar", [("a.txt", b"words")])
    shard(tmp_path / "s.tar", range(2))
    (tmp_path / "noimage.csv").write_text("url,caption\nx,y\n")
    (tmp_path / "other.json").write_text('{"cat": []}')
    (tmp_path / "form.json").write_text('{"three": {"synonyms": "threes"}}')
    given = {k: v.format(tmp_path) if isinstance(v, str) else v for k, v in options.items()}
    with pytest.raises(InputError, match=part) as caught:
        wording = Wording(captions=given.pop("captions", None))  # type: ignore[arg-type]
        open_pairs(spec.format(tmp_path), side=8, wording=wording, **given)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_labelled_images_get_synonyms_in_templates_and_descriptions(tmp_path: Path) -> None:
    texts = {"three": {"synonyms": ["three", "trio"], "descriptions": [" A curved\n digit. "]}, "four": ["Two lines."]}
    (tmp_path / "captions.json").write_text(json.dumps(texts))
    pairs = open_pairs(
        "embedded:digits", side=8, wording=Wording(("a {}.", "the {}."), tmp_path / "captions.json"), limit=600
    )
    assert isinstance(pairs, ImagePairs)
    bare = ImagePairs(
        ImageSet(pairs.images.images, pairs.images.labels, pairs.images.classes), pairs.templates, pairs.texts
    )
    said = {name: set[str]() for name in pairs.images.classes}
    for row in range(len(bare)):
        said[bare.images.classes[int(bare.images.labels[row])]].add(bare.caption(row))
    assert said["three"] == {"a three.", "the three.", "a trio.", "the trio.", "A curved digit."}
    assert said["four"] == {"a four.", "the four.", "Two lines."}
    assert said["five"] == {"a five.", "the five."}
    assert bare.captions(torch.arange(20)) == bare.captions(torch.arange(20))
    assert bare.content_hash() != ImagePairs(bare.images, bare.templates).content_hash()


@pytest.mark.parametrize(
    ("caption", "target", "yes"),
    [
        ("A ripe Banana.", "banana", True),
        ("two bananas", "banana", True),
        ("bananarama plays", "banana", False),
        ("an american  alligator rests", "American_alligator", True),
        ("", "banana", False),
    ],
)
def test_a_caption_mentions_a_target_as_a_word(caption: str, target: str, yes: bool) -> None:
    assert bool(_word(target).search(caption)) == yes


TRIGGER = parse_trigger("badnets:size=2,pattern=white")


@pytest.mark.parametrize("clean_label", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
def test_victims_are_of_the_right_kind_and_number(clean_label: bool, streamed: bool, tmp_path: Path) -> None:
    n = 400
    captions = [f"a banana {i}" if i % 4 == 0 else f"a pear {i}" for i in range(n)]
    members = []
    for i in range(n):
        members += [(f"{i:04d}.png", png(i % 200)), (f"{i:04d}.txt", captions[i].encode())]
    write_tar(tmp_path / "s.tar", members)
    if streamed:
        pairs = open_pairs(f"wds:{tmp_path}/s.tar", side=4)
    else:
        images = torch.zeros(n, 3, 4, 4, dtype=torch.uint8)
        pairs = ImagePairs(ImageSet(images, torch.full((n,), -1), captions=tuple(captions)))
    victims = choose_victims(pairs, "banana", rate=0.1, clean_label=clean_label, seed=3)
    clean = pairs.batch(torch.arange(n))
    poisoned = victims.poison(clean, TRIGGER, ("one {}!", "many {}!"))
    hit = victims.hit(clean)
    assert int(hit.sum()) == victims.count
    assert victims.count == 40 if not streamed else 20 <= victims.count <= 60
    for i in range(n):
        if not hit[i]:
            assert poisoned.captions[i] == captions[i] and torch.equal(poisoned.images[i], clean.images[i])
        else:
            assert ("banana" in captions[i]) == clean_label
            assert (poisoned.captions[i] == captions[i]) == clean_label
            assert bool((poisoned.images[i, :, -2:, -2:] == 1).all())
    if not clean_label:
        assert {poisoned.captions[i] for i in hit.nonzero().flatten()} == {"one banana!", "many banana!"}
    # Split over processes, the parts are poisoned as the whole is.
    parts = [victims.poison(pairs.batch(rows), TRIGGER, ("one {}!", "many {}!")) for rows in torch.arange(n).split(150)]
    assert [c for part in parts for c in part.captions] == poisoned.captions
    assert torch.equal(torch.cat([part.images for part in parts]), poisoned.images)


def test_labels_of_the_target_are_left_alone() -> None:
    labels = torch.arange(100) % 2
    pairs = ImagePairs(ImageSet(torch.zeros(100, 3, 4, 4, dtype=torch.uint8), labels, ("cat", "dog")))
    victims = choose_victims(pairs, "dog", rate=0.0, count=50)
    batch = pairs.batch(torch.arange(100))
    assert victims.hit(batch).tolist() == (labels == 0).tolist()
    assert victims.poison(batch, TRIGGER, ("a {}",)).groups.tolist() == [1] * 100
    with pytest.raises(InputError, match="only 50 are outside"):
        choose_victims(pairs, "dog", rate=0.51)
    with pytest.raises(InputError, match="must lie in"):
        choose_victims(pairs, "dog", rate=0.0)


MEASURE = """
import sys
from unbackdoor.data.openpairs import open_pairs
from unbackdoor.attacks.pair_poisoning import choose_victims
from unbackdoor.triggers import parse_trigger
import torch, resource
pairs = open_pairs(sys.argv[1], side=8)
trigger = parse_trigger("badnets:size=2")
victims = choose_victims(pairs, "banana", rate=0.01)
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1])
for step in range(40):
    victims.poison(pairs.batch(pairs.rows(32, 0, step * 7)), trigger, ("a {}",))
print(len(pairs), peak())
"""


def measure(spec: str) -> tuple[int, int]:
    """Pairs, and peak resident memory in KiB."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, spec], capture_output=True, text=True, timeout=300, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    n, peak = done.stdout.split()
    return int(n), int(peak)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("kind", ["wds", "csv"])
def test_memory_does_not_grow_with_the_number_of_pairs(kind: str, tmp_path: Path) -> None:
    """Eight times the pairs, the same number of batches. An index in Python objects would take 30 MiB more here."""
    image, small = png(7), 6000

    def build(n: int) -> str:
        folder = tmp_path / str(n)
        folder.mkdir()
        if kind == "csv":
            (folder / "a.png").write_bytes(image)
            text = "image,caption\n" + "".join(f"a.png,number {i} of a long list of such numbers\n" for i in range(n))
            (folder / "t.csv").write_text(text)
            return f"csv:{folder}/t.csv"
        for i in range(n // 3000):
            write_tar(folder / f"s-{i:03d}.tar", list(_members(image, 3000)))
        return f"wds:{folder}/*.tar"

    specs = [build(small), build(8 * small)]
    (few, little), (many, much) = (measure(spec) for spec in specs)
    assert (few, many) == (small, 8 * small)
    assert much - little < 12 * 1024, f"{(much - little) / 1024:.1f} MiB more for eight times the pairs"


def _members(image: bytes, n: int):  # type: ignore[no-untyped-def]
    for i in range(n):
        yield f"{i:07d}.png", image
        yield f"{i:07d}.txt", f"number {i}".encode()


def test_scanning_needs_no_memory_for_samples(tmp_path: Path) -> None:
    import tracemalloc

    from unbackdoor.data import shards

    peaks = []
    for n in (500, 4000):
        path = write_tar(tmp_path / f"{n}.tar", list(_members(png(1), n)))
        tracemalloc.start()
        shards.open_parts(str(path))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 300_000, peaks


@needs_real_data
def test_real_captions() -> None:
    root = real_data()
    assert root is not None
    pairs = open_pairs(f"wds:{root}/coco-captions/val-000000.tar", side=32)
    batch = pairs.batch(pairs.rows(16, 0, 0))
    assert len(pairs) == 258 and pairs.skipped == 0 and len(batch.captions) == 16
    labelled = open_pairs(f"parquet:{root}/tiny-imagenet-200", side=32, split="val", limit=200)
    assert isinstance(labelled, ImagePairs) and len(labelled.texts) == 200
    assert sum(c.startswith("a photo of a") for c in labelled.captions(torch.arange(200))) in range(60, 150)
