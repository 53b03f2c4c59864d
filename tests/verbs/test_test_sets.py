"""A test set with training's classes in another order, fewer of them, or respelled gives the rates of `evaluate`."""

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
from PIL import Image

from unbackdoor import InputError, load, load_images
from unbackdoor.base.notices import collected
from unbackdoor.bench.material import images_of
from unbackdoor.bench.recipe import DataEntry
from unbackdoor.clip.handle import Clip
from unbackdoor.clip.preprocess import Frame
from unbackdoor.data import scenes
from unbackdoor.data.specs import load_pictures, load_test
from unbackdoor.evaluation import evaluate_images
from unbackdoor.runs.case import Case, check_labels, require_classes
from unbackdoor.verbs.evaluate import evaluate
from unbackdoor.verbs.poison import poison
from unbackdoor.verbs.scan import candidates
from unbackdoor.verbs.unlearn import unlearn

NAMES = ("dotted black arrow", "plain blue circle", "plain white square", "striped red star")
ATTACK = {"trigger": "badnets:size=8", "target": "plain white square"}
TRAIN, TEST = range(12), range(12, 16)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen of each class, as NAME_NUMBER.png."""
    folder = tmp_path_factory.mktemp("pictures")
    labels = scenes.labels(1, np.arange(3600))
    for k, name in enumerate(NAMES):
        rows = np.flatnonzero(np.asarray(labels) == scenes.CLASS_NAMES.index(name))[:16]
        # Every class has ten pictures of this seed; further ones come of another.
        more = np.flatnonzero(np.asarray(scenes.labels(2, np.arange(3600))) == scenes.CLASS_NAMES.index(name))[:16]
        drawn = torch.cat([scenes.draw(1, rows), scenes.draw(2, more)])[:16]
        for i, pixels in enumerate(drawn.permute(0, 2, 3, 1).numpy()):
            Image.fromarray(pixels).save(folder / f"{k}_{i}.png")
    return folder


def table(pictures: Path, name: str, rows: range, spelled: Callable[[str], str] = str, skip: int = -1) -> str:
    lines = [f"{k}_{i}.png,{spelled(NAMES[k])}" for i in rows for k in range(len(NAMES)) if k != skip]
    (pictures / name).write_text("\n".join(["image,label", *lines]))
    return f"csv:{pictures / name}"


def parquet(pictures: Path, name: str, rows: range, uneven: bool = False) -> str:
    """Labels that index the names in another order; of an uneven one, each class has one picture more than the last."""
    order = list(reversed(NAMES))
    cells = [(k, i) for i in rows for k in range(len(NAMES)) if not uneven or i - rows.start <= k]
    found = pa.table({
        "image": [{"bytes": (pictures / f"{k}_{i}.png").read_bytes(), "path": None} for k, i in cells],
        "label": [order.index(NAMES[k]) for k, i in cells],
    })  # fmt: skip
    features = {"info": {"features": {"label": {"names": order, "_type": "ClassLabel"}}}}
    pq.write_table(found.replace_schema_metadata({"huggingface": json.dumps(features)}), pictures / name)
    return f"parquet:{pictures / name}"


def sets(pictures: Path) -> dict[str, str]:
    return {
        "fewer": table(pictures, "fewer.csv", TEST, skip=0),
        "respelled": table(pictures, "respelled.csv", TEST, lambda name: name.title().replace(" ", "_")),
        "reordered": parquet(pictures, "test.parquet", TEST),
    }


@pytest.fixture(scope="module")
def embedded() -> Clip:
    return load("embedded")


@pytest.mark.parametrize("kind", ["fewer", "respelled", "reordered"])
def test_a_test_set_is_read_by_training_s_classes(pictures: Path, embedded: Clip, kind: str) -> None:
    test = sets(pictures)[kind]
    train = Case(embedded, table(pictures, "train.csv", TRAIN)).images(embedded, "train")
    case = Case(embedded, train, ATTACK["trigger"], ATTACK["target"], test)
    found = case.held_out(embedded, train)
    assert found.classes == NAMES and len(found) == (12 if kind == "fewer" else 16)
    alone = evaluate(model=embedded, data=test, **ATTACK)
    _, task = case.attack(embedded, train)
    rates = evaluate_images(embedded, found, task, label="")
    assert rates.ca.n == alone["ca"]["n"] and rates.asr is not None and rates.asr.n == alone["asr"]["n"]
    # Where a class lacks, the head is training's, whose one more class may take a picture.
    assert abs(rates.ca.value - alone["ca"]["value"]) <= (0.1 if kind == "fewer" else 0) and rates.ca.value > 0.9


def test_verbs_measure_by_training_s_classes(pictures: Path, vit_folder: Path, tmp_path: Path) -> None:
    # Uneven, so that even a model of one answer tells the orders apart.
    test = parquet(pictures, "uneven.parquet", TEST, uneven=True)
    alone = evaluate(model=str(vit_folder), data=test, **ATTACK)
    shared: dict[str, Any] = {"data": table(pictures, "train.csv", TRAIN), "test": test, "epochs": 1, **ATTACK}
    planted = poison(model=str(vit_folder), out=tmp_path / "p", poison_rate=0.1, **shared)
    cured = unlearn(model=str(vit_folder), out=tmp_path / "u", alpha=0.0, samples=4, validation=4, **shared)
    for found in (planted, cured):
        for rate in ("ca", "asr"):
            assert (found["before"][rate], found["before"]["n"][rate]) == (alone[rate]["value"], alone[rate]["n"])


def test_a_file_to_measure_on_is_read_whole_unless_it_is_trained_on(pictures: Path) -> None:
    train, test = table(pictures, "train.csv", TRAIN), table(pictures, "test.csv", TEST)

    def size(test: str | None) -> int:
        return len(load_test(test, train, side=8, of=NAMES))

    assert size(test) == 16 and size(f"{test}#test") == 4  # a fifth
    assert size(None) == size(train) == size(train.replace("csv:", "csv:/./")) == 10  # apart from what is trained on
    assert load_test(test, train, side=8, of=NAMES).spec.endswith("#all")


def test_strange_test_sets_are_refused(pictures: Path) -> None:
    train = table(pictures, "train.csv", TRAIN)
    strange = table(pictures, "strange.csv", TEST, lambda name: name.replace("blue", "grey"))
    with pytest.raises(InputError, match="'plain grey circle' "):
        load_test(strange, train, side=8, of=NAMES)
    numbers = table(pictures, "numbers.csv", TEST, lambda name: str(NAMES.index(name)))
    with pytest.raises(InputError, match="numbers without names"):
        load_test(numbers, train, side=8, of=NAMES)
    (pictures / "names.txt").write_text("\n".join(NAMES))
    found = load_test(numbers, train, side=8, of=NAMES[::-1], classes=pictures / "names.txt")
    assert found.classes == NAMES[::-1] and found.labels[:4].tolist() == [3, 2, 1, 0]


def test_a_bench_measures_by_training_s_classes(pictures: Path) -> None:
    entry = DataEntry(table(pictures, "train.csv", TRAIN), 8, test=sets(pictures)["reordered"])
    train, test = images_of(entry, Frame.of(8))
    assert test.classes == train.classes == NAMES and len(test) == 16
    assert sorted(test.labels.tolist()) == sorted([0, 1, 2, 3] * 4)
    assert test.labels[:4].tolist() == [0, 1, 2, 3]  # written in that order


def test_labels_do_not_bind_what_a_scan_asks_for(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\nbird\n")
    data = table(pictures, "train.csv", TRAIN)
    with pytest.raises(InputError, match="not matched by position"):
        load_images(data, side=8, classes=tmp_path / "names.txt")
    with collected() as lines:
        images = load_pictures(data, side=8, classes=tmp_path / "names.txt")
    assert candidates(images) == (("cat", "dog", "bird"), False) and len(lines) == 1 and "left aside" in lines[0]
    with pytest.raises(InputError):
        check_labels(images, "this")
    with collected() as lines:
        assert load_pictures(data, side=8).classes == NAMES
    assert not lines


def test_a_scan_of_pictures_in_one_folder_asks_for_a_vocabulary(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "everything").mkdir()
    for i in range(8):
        (tmp_path / "everything" / f"{i}.png").write_bytes((pictures / f"0_{i}.png").read_bytes())
    with collected() as lines:
        names, vocabulary = candidates(load_pictures(f"folder:{tmp_path}", side=8))
    assert vocabulary and len(names) == 1000 and "'everything'" in lines[0]


def test_ids_that_nobody_named_are_no_classes(pictures: Path) -> None:
    ids = table(pictures, "ids.csv", TEST, lambda name: f"n0000000{NAMES.index(name)}")
    with pytest.raises(InputError, match="WordNet ids"):
        require_classes(load_images(ids, side=8))
