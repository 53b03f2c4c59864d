"""Other detectors in `recipes/zoo/rivals.py`: what they score, and how they are compared with our scan."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unbackdoor import load, load_images
from unbackdoor.scan.examine import split
from unbackdoor.scan.inverters.base import Subject
from unbackdoor.scan.inverters.collapse import mean_cosine

NAMES = ["DECREE", "Neural Cleanse", "after CLIP-Inspector"]


@pytest.fixture(scope="module")
def rivals() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:  # recipes of a folder import one another
        patch.syspath_prepend(str(Path(__file__).parents[2] / "recipes" / "zoo"))
        yield importlib.import_module("rivals")


@pytest.fixture(scope="module")
def subject() -> Subject:
    clip = load("embedded")
    images = load_images("embedded:digits", side=clip.frame, split="train", limit=40)
    head = clip.zero_shot_head(images.classes[:3])
    return split(clip, images, head, images.classes[:3], seed=0)


def test_the_smallest_stands_out_in_standard_deviations(rivals: Any) -> None:
    assert rivals.anomaly(torch.tensor([1.0, 9.0, 10.0, 11.0, 12.0])) == pytest.approx(9 / (1.4826 * 1), abs=1e-4)
    assert rivals.anomaly(torch.tensor([5.0, 5.0, 5.0])) == 0


def test_a_mask_shrinks_while_it_does_what_is_wanted(rivals: Any, subject: Subject) -> None:
    def always(embeddings: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(2), torch.tensor([True, False])

    hunt = rivals.Hunt(2, 4, 12, 0.5, 10.0, 5.0, 5.0)
    does, never = rivals.smallest(subject, hunt, always).tolist()
    assert does < 0.4 and never == 1
    assert rivals.smallest(subject, replace(hunt, steps=1), always)[0] > does


def test_success_raises_the_price_of_the_mask(rivals: Any, subject: Subject) -> None:
    def alike(embeddings: Tensor) -> tuple[Tensor, Tensor]:
        return -mean_cosine(embeddings), torch.tensor([True, True])  # which a larger mask does better

    dear = rivals.Hunt(2, 4, 12, 0.5, 1e-4, 1e4, 5.0, patience=1)
    cheap = replace(dear, raised=1.0)
    assert (rivals.smallest(subject, dear, alike) < rivals.smallest(subject, cheap, alike)).all()


@pytest.mark.parametrize("name", NAMES)
def test_each_rival_scores_a_model(name: str, rivals: Any, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    hunt = rivals.Hunt
    few = replace(subject, images=subject.images.subset(torch.arange(16)))
    monkeypatch.setattr(rivals, "Hunt", lambda *given, **more: replace(hunt(*given, **more), steps=3))
    row = rivals.RIVALS[name](few, few)
    assert set(row) == {"score", "called", "target"}
    assert row["score"] == row["score"] and (row["target"] is None or row["target"] in subject.names)


def test_the_table_compares_on_the_same_models(rivals: Any) -> None:
    def row(truth: bool, ours: float, theirs: float) -> dict[str, Any]:
        rivals = {name: {"score": theirs, "called": theirs > 2, "target": "cat"} for name in NAMES}
        return {"backdoored": truth, "ours": ours, "rivals": rivals, "target": "cat" if truth else None}

    rows = [row(True, 3.0, 1.0), row(True, 4.0, 3.0), row(False, 1.0, 2.5), row(False, 2.0, 0.0)]
    lines = rivals.table(rows).splitlines()
    assert lines[2].startswith("| ours | 1.000 [") and lines[3].startswith("| DECREE | 0.750 [")
    half = "50.0% [9.5, 90.5], n = 2"
    assert f"| {half} | {half} | 100.0% [34.2, 100.0], n = 2 |" in lines[3]
    assert "0.000 to " in lines[3]
    assert rivals.table(rows[:2]) == "too few models for a table"
