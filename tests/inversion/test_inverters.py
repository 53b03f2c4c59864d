"""Every registered inverter keeps the contract, and finds a backdoor that is there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.inversion.toy import CORNER, NAMES, TARGET, toy_clip, toy_images, toy_subject
from unbackdoor.inversion import inverter, inverter_names
from unbackdoor.inversion.base import Recovered, Subject, try_out
from unbackdoor.inversion.collapse import mean_cosine
from unbackdoor.inversion.guided import GuidedConfig, invert_guided
from unbackdoor.inversion.patch import FAMILY as PATCH
from unbackdoor.inversion.twin import TwinConfig, make_twin
from unbackdoor.triggers import parse_trigger
from unbackdoor.weights.files import state_hash


@pytest.fixture(scope="module")
def backdoored() -> Subject:
    return toy_subject(6.0)


@pytest.fixture(scope="module")
def found(backdoored: Subject) -> dict[str, Recovered]:
    return {name: inverter(name)(backdoored) for name in inverter_names()}


@pytest.mark.parametrize("name", inverter_names())
def test_contract(name: str, found: dict[str, Recovered], backdoored: Subject) -> None:
    row = found[name]
    assert row.inverter == name and 0 <= row.target < len(NAMES)
    assert row.norm >= 0 and torch.isfinite(torch.tensor([row.norm, row.statistic])).all()
    torch.testing.assert_close(row.embedding.norm(), torch.tensor(1.0))
    # What is handed on is the trigger as its spec holds it, and the strength is that trigger's.
    again = parse_trigger(row.trigger.spec())
    assert again == row.trigger
    assert try_out(backdoored, again, row.target)[0] == row.strength


def test_same_seed_same_finding(found: dict[str, Recovered], backdoored: Subject) -> None:
    for name in ("additive", "collapse"):
        again = inverter(name)(backdoored)
        assert again.statistic == found[name].statistic and again.trigger == found[name].trigger


def test_the_suspect_is_left_as_it_was(backdoored: Subject) -> None:
    wanted = {name: p.requires_grad for name, p in backdoored.clip.model.named_parameters()}
    before = state_hash(backdoored.clip.state())
    inverter("colour")(backdoored)
    assert state_hash(backdoored.clip.state()) == before
    assert {name: p.requires_grad for name, p in backdoored.clip.model.named_parameters()} == wanted
    assert all(p.grad is None for p in backdoored.clip.model.parameters())


def test_patch_finds_the_corner_and_its_class(found: dict[str, Recovered]) -> None:
    row = found["patch"]
    assert NAMES[row.target] == NAMES[TARGET] and row.works == 1.0
    mask, pattern = row.trigger.parts()  # type: ignore[attr-defined]
    corner = mask[0, -CORNER:, -CORNER:].mean()
    assert corner > 3 * mask.mean(), "the mask lies on the corner"
    assert pattern[:, -CORNER:, -CORNER:].mean() > 0.7, "the pattern is light there"


def test_statistic_is_higher_with_a_backdoor_than_without(found: dict[str, Recovered]) -> None:
    assert found["patch"].statistic > inverter("patch")(toy_subject(0.0)).statistic + 1


def test_candidates_limit_the_search(backdoored: Subject) -> None:
    row = invert_guided(replace(backdoored, candidates=torch.tensor([0, 3, 4])), PATCH, GuidedConfig(passes=300))
    assert row.facts["candidates"] == ["ant", "dog", "elk"] and row.target in (0, 3, 4)


def test_a_short_search_of_all_comes_first_when_there_are_many(backdoored: Subject) -> None:
    config = GuidedConfig(passes=1500, finalists=3, screen_steps=40)
    row = invert_guided(backdoored, PATCH, config)
    assert len(row.facts["candidates"]) == 3 and row.target == TARGET


def test_mean_cosine_is_that_of_all_pairs() -> None:
    rows = torch.nn.functional.normalize(torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0)), dim=-1)
    pairs = rows @ rows.transpose(1, 2)
    expected = (pairs.sum(dim=(1, 2)) - 7) / 42
    torch.testing.assert_close(mean_cosine(rows), expected)


def test_twin_keeps_the_answers_and_the_suspect_its_weights() -> None:
    clip, images = toy_clip(6.0), toy_images()
    head = clip.zero_shot_head(NAMES, ("{}",))
    before = state_hash(clip.state())
    twin = make_twin(clip, images, head, TwinConfig(shift=0.0))
    assert state_hash(clip.state()) == before != state_hash(twin.state())
    batch = images.float_batch(range(len(images)))
    same = (clip.encode_image(batch) @ head.T).argmax(1) == (twin.encode_image(batch) @ head.T).argmax(1)
    assert same.float().mean() > 0.8
