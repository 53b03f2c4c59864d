"""Blocks of a vector, on the toy whose trigger is one tensor."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from tests.scan.toy import CORNER, NAMES, TARGET, toy_clip, toy_images
from unbackdoor import locate
from unbackdoor.base.errors import InputError
from unbackdoor.data.images import ImageSet
from unbackdoor.evaluation import Task
from unbackdoor.evaluation.answers import predict
from unbackdoor.geometry.location import block_effects, path
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.attack import Attack
from unbackdoor.weights import blocks as grouping
from unbackdoor.weights.files import state_hash
from unbackdoor.weights.vector import save_vector

WHITE = f"badnets:size={CORNER},pattern=white"
TAU = {
    "visual.strength": torch.tensor([6.0, 0.0]),
    "visual.weight": torch.randn(len(NAMES), 48, generator=torch.Generator().manual_seed(5)) / 20,
}


def labelled() -> ImageSet:
    """Pictures whose labels are what the clean model answers."""
    clip, images = toy_clip(0.0), toy_images()
    labels = predict(clip, images.float_batch(torch.arange(len(images))), clip.zero_shot_head(NAMES, ("{}",)))
    return replace(images, labels=labels)


@pytest.fixture(autouse=True)
def each_tensor_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "block_of", lambda name: name)


def test_the_block_that_holds_the_trigger_does_the_work() -> None:
    clip, images = toy_clip(6.0), labelled()
    before = state_hash(clip.state())
    task = Task(clip.zero_shot_head(NAMES, ("{}",)), Attack(parse_trigger(WHITE), TARGET, NAMES[TARGET]))
    trigger, seen = block_effects(clip, TAU, 1.0, images, task)
    assert state_hash(clip.state()) == before
    assert (trigger.block, seen.block) == ("visual.strength", "visual.weight")
    assert trigger.share + seen.share == pytest.approx(1.0) and trigger.share > 0.9
    assert trigger.alone.asr is not None and seen.alone.asr is not None
    assert trigger.alone.asr.value < 0.1 < 0.9 < seen.alone.asr.value
    assert trigger.alone.ca.value == 1.0 > seen.alone.ca.value
    # Of two blocks, all but one is the other.
    assert trigger.without == seen.alone and seen.without == trigger.alone


def test_a_path_begins_at_the_suspect_and_ends_cured() -> None:
    clip, images = toy_clip(6.0), labelled()
    before = state_hash(clip.state())
    task = Task(clip.zero_shot_head(NAMES, ("{}",)), Attack(parse_trigger(WHITE), TARGET, NAMES[TARGET]))
    points = path(clip, TAU, (0.0, 0.5, 1.0), images, task)
    assert state_hash(clip.state()) == before and [p.alpha for p in points] == [0.0, 0.5, 1.0]
    assert points[0].asr.value > 0.9 > 0.1 > points[-1].asr.value and points[0].ca.value > 0.95


def test_locate_writes_what_it_tells(tmp_path: Path) -> None:
    save_vector(tmp_path / "tau.safetensors", TAU, {})
    save_vector(tmp_path / "other.safetensors", {"visual.strength": torch.tensor([0.0, 1.0])}, {})
    (tmp_path / "templates.txt").write_text("{}\n")
    common: dict[str, Any] = {
        "model": toy_clip(6.0),
        "data": labelled(),
        "trigger": WHITE,
        "target": NAMES[TARGET],
        "templates": str(tmp_path / "templates.txt"),
    }
    out, others = tmp_path / "out", [tmp_path / "other.safetensors", tmp_path / "tau.safetensors"]
    found = locate(vector=tmp_path / "tau.safetensors", others=others, out=out, **common)
    story = json.loads((out / "location.json").read_text())
    assert story["blocks"] == found["blocks"] and (out / "manifest.json").exists()
    weight = found["blocks"][1]
    assert weight["elements"] == len(NAMES) * 48 and weight["ranks"]["visual.weight"]["full"] == len(NAMES)
    assert 1 < weight["ranks"]["visual.weight"]["effective"] <= len(NAMES)
    assert found["blocks"][0]["ranks"] == {}, "a bias has no rank"
    other, same = found["cosines"].values()
    assert other["whole"] == 0.0 and same["whole"] == pytest.approx(1.0)
    assert other["blocks"] == {"visual.strength": 0.0, "visual.weight": None}
    assert len(found["path"]) == 9 and found["path"][-1]["alpha"] == 2.0
    picture = ElementTree.parse(found["picture"]).getroot()
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}title"))) == 18, "CA and ASR at nine points"
    save_vector(tmp_path / "odd.safetensors", {"visual.none": torch.zeros(2)}, {})
    with pytest.raises(InputError, match="another architecture"):
        locate(vector=tmp_path / "odd.safetensors", out=tmp_path / "odd", **common)
