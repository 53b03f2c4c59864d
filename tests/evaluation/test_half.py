"""Answers in a half type are float32's, and where they cannot be, float32 gives them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.scan.toy import TARGET, toy_clip, toy_images
from unbackdoor.clip.handle import Clip
from unbackdoor.evaluation import Task, evaluate_images, half
from unbackdoor.evaluation.answers import predict
from unbackdoor.evaluation.half import Answers
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.attack import Attack

COUNT = 4096


@pytest.fixture
def images() -> Tensor:
    return toy_images(COUNT).float_batch(range(COUNT))


def head(spread: float) -> Tensor:
    """Five unit rows: one and the same direction, and `spread` of their own."""
    rows = torch.ones(5, 5) + spread * torch.eye(5)
    return rows / rows.norm(dim=1, keepdim=True)


def asked(given: Answers, images: Tensor, size: int = 64) -> Tensor:
    return torch.cat([given(batch) for batch in images.split(size)])


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_answers_are_those_of_float32(half: torch.dtype, images: Tensor) -> None:
    clip, rows = toy_clip(2.0), head(4.0)
    given = Answers(clip, rows, half)
    assert torch.equal(asked(given, images), predict(clip, images, rows))
    facts = given.facts()
    assert facts["type"] == str(half).removeprefix("torch.") and facts["views_in_half"] == COUNT
    assert 16 <= facts["answered_twice"] < COUNT / 2 and 0 < facts["farthest_move"] < 0.05


def test_without_a_second_look_answers_would_change(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy's answers are close enough for half types to change some, so that the test above can fail."""
    monkeypatch.setattr(half, "_HEADROOM", -1.0)
    clip, rows = toy_clip(2.0), head(4.0)
    assert (asked(Answers(clip, rows, torch.bfloat16), images) != predict(clip, images, rows)).any()


def test_many_close_answers_give_half_types_up(images: Tensor) -> None:
    twins = head(4.0) + 1e-4 * torch.eye(5).roll(1, dims=0)
    clip, rows = toy_clip(2.0), torch.cat([head(4.0), twins / twins.norm(dim=1, keepdim=True)])
    given = Answers(clip, rows, torch.bfloat16)
    assert torch.equal(asked(given, images), predict(clip, images, rows))
    assert given.facts()["type"] == "float32" and given.facts()["views_in_half"] < COUNT


def broken(kind: str) -> Clip:
    """A clip whose tower fails in half types only."""
    clip = toy_clip(2.0)
    tower = clip.model.visual.forward

    def forward(inputs: Tensor) -> Tensor:
        if inputs.dtype == torch.float32:
            return tower(inputs)
        if kind == "raises":
            raise RuntimeError("not implemented for 'BFloat16'")
        return tower(inputs) * torch.nan

    clip.model.visual.forward = forward
    return clip


@pytest.mark.parametrize("kind", ["raises", "not numbers"])
def test_towers_that_fail_in_half_types(kind: str, images: Tensor) -> None:
    clip, rows = broken(kind), head(4.0)
    given = Answers(clip, rows, torch.bfloat16)
    assert torch.equal(asked(given, images), predict(clip, images, rows))
    assert given.facts()["type"] == "float32"


def test_one_class_has_no_second(images: Tensor) -> None:
    given = Answers(toy_clip(2.0), head(1.0)[:1], torch.bfloat16)
    assert not asked(given, images).any() and given.facts()["answered_twice"] == 16


def test_weights_and_their_types_stay(images: Tensor) -> None:
    clip = toy_clip(2.0)
    before = {name: t.clone() for name, t in clip.state().items()}
    asked(Answers(clip, head(1.0), torch.bfloat16), images)
    assert all(torch.equal(t, before[n]) and t.dtype == before[n].dtype for n, t in clip.state().items())


@pytest.mark.parametrize("trigger", ["badnets:size=4,pattern=white", "wanet:s=2", None])
def test_rates_are_those_of_two_plain_passes(trigger: str | None) -> None:
    clip, data, rows = toy_clip(6.0), toy_images(COUNT), head(4.0)
    images = data.float_batch(range(COUNT))
    truth = predict(clip, images, rows).roll(1)
    data = type(data)(data.images, truth, data.classes)
    chosen = None if trigger is None else parse_trigger(trigger)
    given = Answers(clip, rows, torch.bfloat16)
    found = evaluate_images(
        clip, data, Task(rows, None if chosen is None else Attack(chosen, TARGET, "target")), answers=given
    )
    assert found.ca.hits == int((predict(clip, images, rows) == truth).sum())
    if chosen is not None:
        said = predict(clip, chosen(images), rows)
        assert found.asr is not None
        assert (found.asr.hits, found.asr.n) == (int(((said == TARGET) & (truth != TARGET)).sum()),
                                                 int((truth != TARGET).sum()))  # fmt: skip
