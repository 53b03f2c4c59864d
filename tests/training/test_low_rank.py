"""Low-rank training: factors stand for a change of the weights, and nothing else of the model moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.conftest import CONFIGS, made_odd, write_open_clip
from tests.scan.toy import toy_clip
from unbackdoor import InputError, load, load_images
from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.evaluation import Task
from unbackdoor.training.guard import learn_guard
from unbackdoor.training.low_rank import Factors, low_rank
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.attack import Attack
from unbackdoor.unlearning import vector as vectors
from unbackdoor.unlearning.vector import METHODS, trigger_vector
from unbackdoor.weights.vector import add_, snapshot

RANK = 3


@pytest.fixture(scope="module", params=list(CONFIGS))
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return load(str(write_open_clip(tmp_path_factory.mktemp(request.param), CONFIGS[request.param]())))


def pictures(clip: Clip) -> Tensor:
    return torch.rand(4, 3, clip.image_size, clip.image_size, generator=torch.Generator().manual_seed(0))


def moved_factors(parameters: list[torch.nn.Parameter]) -> None:
    with torch.no_grad():
        for number, p in enumerate(parameters):
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(number)))


def rank_of(name: str, change: Tensor) -> int:
    parts = change.chunk(3) if name.endswith("in_proj_weight") else (change,)
    return max(int(torch.linalg.matrix_rank(p.flatten(1).double(), rtol=1e-5)) for p in parts)


def test_factors_are_a_change_of_the_weights(clip: Clip) -> None:
    before, order = snapshot(clip.state()), list(clip.state())
    objects = {name: id(p) for name, p in clip.model.named_parameters()}
    x = pictures(clip)
    with torch.no_grad():
        plain = clip.encode_image(x)
        with low_rank(clip, RANK) as factors:
            assert torch.equal(clip.encode_image(x), plain), "B begins at 0"
            moved_factors(factors.parameters())
            through = clip.encode_image(x)
            change = factors.change()
    assert list(clip.state()) == order and {n: id(p) for n, p in clip.model.named_parameters()} == objects
    assert all(torch.equal(t, before[name]) for name, t in clip.state().items())
    matrices = {n for n, p in clip.image_parameters().items() if p.ndim in (2, 4) and n.endswith("weight")}
    assert set(change) == matrices
    assert all(1 <= rank_of(name, t) <= RANK for name, t in change.items())
    by_hand = clip.clone()
    with torch.no_grad():
        for name, t in change.items():
            by_hand.state()[name].add_(t)
        assert float((by_hand.encode_image(x) - through).abs().max()) < 1e-5
        assert float((through - plain).abs().max()) > 1e-3


def test_the_guard_is_part_of_the_factors(clip: Clip) -> None:
    guard = learn_guard(clip, [pictures(clip)], 0.1)
    changes = []
    for given in (None, guard):
        with low_rank(clip, RANK, guard=given) as factors:
            moved_factors(factors.parameters())
            changes.append(factors.change())
    for name, change in changes[0].items():
        torch.testing.assert_close(changes[1][name], guard.soften(name, change), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("make", "rank", "told"),
    [(lambda: toy_clip(1.0), 4, "no linear layer and no convolution"), (lambda: toy_clip(1.0), 0, "at least 1")],
)
def test_what_cannot_be_adapted(make: Callable[[], Clip], rank: int, told: str) -> None:
    with pytest.raises(InputError, match=told), low_rank(make(), rank):
        pass


def known(clip: Clip) -> tuple[ImageSet, Task]:
    digits = load_images("embedded:digits", side=clip.frame, split="train").subset(torch.arange(32))
    attack = Attack(parse_trigger("badnets:size=4,pattern=white"), 3, "three")
    return digits, Task(clip.zero_shot_head(digits.classes), attack)


def test_a_killed_run_goes_on_to_the_same_vector(clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, before = known(clip), snapshot(clip.state())
    config = replace(METHODS["lora"], tune=replace(METHODS["lora"].tune, steps=8, batch_size=16))
    calls, loss, last = [], vectors.squared_distance, [0]

    def dies(*args: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == last[0]:
            raise KeyboardInterrupt
        return loss(*args)

    monkeypatch.setattr(vectors, "squared_distance", dies)
    unbroken = trigger_vector(clip, *given, config)
    assert max(rank_of(name, t) for name, t in unbroken.vector.items()) <= 8 and unbroken.lr > 0
    last[0] = len(calls) - 5  # two calls a step, after those that measure the rate
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        trigger_vector(clip, *given, config, work=Work(tmp_path, "k"))
    assert all(torch.equal(t, before[name]) for name, t in clip.state().items())
    monkeypatch.undo()
    assert (tmp_path / "vector.checkpoint").exists()
    again = trigger_vector(clip, *given, config, work=Work(tmp_path, "k"))
    assert again.losses == unbroken.losses and again.vector.keys() == unbroken.vector.keys()
    assert all(torch.equal(t, unbroken.vector[name]) for name, t in again.vector.items())


def test_matrices_that_modules_share_are_adapted_together(tmp_path: Path) -> None:
    clip = made_odd(load(str(write_open_clip(tmp_path / "vit", CONFIGS["vit"]()))))
    x, order = pictures(clip), list(clip.state())
    guard = learn_guard(clip, [x], 0.1)
    blocks = clip.model.visual.transformer.resblocks
    with torch.no_grad():
        with low_rank(clip, RANK, guard=guard) as factors:
            moved_factors(factors.parameters())
            through, change = clip.encode_image(x), factors.change()
        assert blocks[0].mlp.c_fc.weight is blocks[1].mlp.c_fc.weight and list(clip.state()) == order
        add_(clip.state(), change, 1.0)
        assert float((clip.encode_image(x) - through).abs().max()) < 1e-5


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
def test_steps_are_relative_to_each_matrix(factor: float) -> None:
    """A weight held at another scale, which the network undoes, is changed by the same share of itself."""
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    images, goal = torch.randn(8, 5, generator=torch.Generator().manual_seed(2)), torch.ones(8, 6)

    def trained(scale: float) -> Tensor:
        factors = Factors(weight * scale, 2, 1, None, torch.Generator().manual_seed(3))
        optimizer = torch.optim.AdamW(factors.parameters(), lr=0.1, weight_decay=0.0)
        for _ in range(20):
            optimizer.zero_grad()
            (images @ factors(weight * scale).T / scale - goal).pow(2).mean().backward()
            optimizer.step()
        return factors.change() / scale

    plain = trained(1.0)
    assert plain.abs().max() > 0.05
    torch.testing.assert_close(trained(factor), plain, rtol=2e-2, atol=2e-3)


def test_a_matrix_of_zeros_can_learn() -> None:
    factors = Factors(torch.zeros(4, 3), 2, 1, None, torch.Generator().manual_seed(0))
    assert torch.isfinite(factors.a).all() and factors.unit == pytest.approx(3**-0.5)
