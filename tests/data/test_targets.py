from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from unbackdoor.base.errors import InputError
from unbackdoor.data.classnames import class_names, templates
from unbackdoor.data.names import target_index


def test_targets() -> None:
    classes = ("airplane", "Cat", "deer")
    assert [target_index(classes, t) for t in ("deer", "cat", "0")] == [2, 1, 0]
    assert [target_index(("Red_Star", "sea horse"), t) for t in ("red star", "SeaHorse")] == [0, 1]
    assert [target_index(("1", "02", "10"), t) for t in ("1", "2", "10.0")] == [0, 1, 2]
    for ambiguous, target in ((("crane", "crane"), "crane"), (("red star", "Red_Star"), "red-star")):
        with pytest.raises(InputError, match="fits 2 of the classes"):
            target_index(ambiguous, target)
    with pytest.raises(InputError, match="not among the 3 classes"):
        target_index(("1", "2", "3"), "0")
    with pytest.raises(InputError, match="did you mean airplane"):
        target_index(classes, "aeroplane")
    with pytest.raises(InputError, match="not among the 3 classes"):
        target_index(classes, "banana")


def test_class_names_and_templates(tmp_path: Path) -> None:
    assert len(class_names("imagenet-1k")) == 1000 and len(templates("openai-imagenet")) == 80
    assert templates(None) == ("a photo of a {}.",)
    (tmp_path / "t.txt").write_text("a {} here\nno place\n")
    with pytest.raises(InputError, match="exactly one"):
        templates(str(tmp_path / "t.txt"))
    (tmp_path / "n.json").write_text("[broken")
    with pytest.raises(InputError, match="not readable JSON"):
        class_names(str(tmp_path / "n.json"))
    with pytest.raises(InputError):
        class_names("no-such-set")


@pytest.mark.parametrize(
    ("name", "count", "member"),
    [
        ("CIFAR-10", 10, "airplane"),
        ("cifar100", 100, "aquarium fish"),
        ("sun397", 397, "abbey"),
        ("gtsrb", 43, "stop"),
        ("dtd", 47, "banded"),
    ],
)
def test_standard_sets_resolve_by_name(name: str, count: int, member: str) -> None:
    if importlib.util.find_spec("fusion_bench") is None:
        pytest.skip("fusion-bench is not installed")
    names = class_names(name)
    assert len(names) == count and member in names
    assert all(t.count("{}") == 1 for t in templates(name))


def test_sets_of_clip_benchmark_resolve_by_name() -> None:
    if importlib.util.find_spec("clip_benchmark") is None:
        pytest.skip("clip-benchmark is not installed")
    assert len(class_names("caltech101")) == 101 or len(class_names("caltech101")) == 102
