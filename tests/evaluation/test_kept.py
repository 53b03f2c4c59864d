"""A pass over the test images that is killed goes on from what it kept, class by class as well."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.scan.toy import toy_clip, toy_images
from unbackdoor.base.errors import InputError
from unbackdoor.evaluation import Task, evaluate_images, evaluate_kept, rates
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.attack import Attack

COUNT = 300  # three batches
HEAD = torch.nn.functional.normalize(torch.ones(5, 5) + 4 * torch.eye(5), dim=1)
TASK = Task(HEAD, Attack(parse_trigger("badnets:size=4"), 1, "one"))
DATA = replace(toy_images(COUNT), labels=torch.arange(COUNT) % 4 - (torch.arange(COUNT) % 7 == 0).long())


class KilledError(Exception):
    pass


def test_a_killed_pass_goes_on_and_counts_every_image_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, kept = toy_clip(2.0), tmp_path / "kept.json"
    whole = evaluate_images(clip, DATA, TASK)
    assert sum(row.n for row in whole.by_class) == whole.ca.n and len(whole.by_class) == 4
    monkeypatch.setattr(rates, "KEPT_SECONDS", 0.0)
    step = rates.Progress.step

    def dies(bar: rates.Progress, done: int) -> None:
        step(bar, done)
        if done > 200:
            raise KilledError

    monkeypatch.setattr(rates.Progress, "step", dies)
    with pytest.raises(KilledError):
        evaluate_kept(clip, DATA, TASK, kept, label=None)
    monkeypatch.setattr(rates.Progress, "step", step)
    half = json.loads(kept.read_text())
    assert 0 < half["done"] < COUNT and 0 < sum(row[0] for row in half["by_class"]) < whole.ca.n
    assert evaluate_kept(clip, DATA, TASK, kept, label=None) == whole
    assert evaluate_kept(clip, DATA, TASK, kept, label=None) == whole, "and is not made again"


def test_what_an_older_version_kept_is_counted_anew(tmp_path: Path) -> None:
    clip, kept = toy_clip(2.0), tmp_path / "kept.json"
    kept.write_text(json.dumps({"done": 128, "ca": [1, 110], "asr": [2, 90], "triggered_accuracy": [3, 70]}))
    assert evaluate_kept(clip, DATA, TASK, kept, label=None) == evaluate_images(clip, DATA, TASK)


@pytest.mark.parametrize("row", [[1, 2, 0, 0], [1, 0, -1, 0], [1, 1, 1]])
def test_counts_that_cannot_be_are_refused(row: list[int], tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    kept.write_text(json.dumps({"done": 1, "ca": [1, 1], "by_class": [row]}))
    with pytest.raises(InputError, match=r"kept\.json"):
        evaluate_kept(toy_clip(2.0), DATA, TASK, kept, label=None)
