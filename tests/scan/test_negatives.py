"""The kinds of clean models that `recipes/zoo/negatives.py` makes: each is what its name says."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from recipes.zoo.negatives import BITS, KINDS, RANK, Ground, matrices, table
from torch import Tensor

from unbackdoor import load, load_images
from unbackdoor.attacks.plant import PoisonConfig
from unbackdoor.clip.handle import Clip
from unbackdoor.training.finetune import TuneConfig
from unbackdoor.weights.files import state_hash


@pytest.fixture(scope="module")
def ground() -> Ground:
    clip = load("embedded")
    digits = load_images("embedded:digits", side=clip.frame, split="train", limit=64)
    training = PoisonConfig(0.1, tune=TuneConfig(epochs=1, batch_size=16, lr=1e-3))
    return Ground(clip, digits, clip.zero_shot_head(digits.classes), training, seed=1)


def of_matrices(clip: Clip, origin: Clip, holds: Callable[[Tensor, Tensor], bool]) -> bool:
    return all(holds(one, other) for one, other in zip(matrices(clip), matrices(origin), strict=True))


def levels(one: Tensor, other: Tensor) -> bool:
    return all(len(row.unique()) < 2**BITS for row in one.flatten(1))


def rank(one: Tensor, other: Tensor) -> bool:
    change = (one - other).flatten(1).double()
    return bool((torch.linalg.svdvals(change)[RANK:] <= 1e-4 * change.norm().clamp(min=1e-9)).all())


PROPERTIES = {
    "pruned": lambda one, other: bool((one == 0).float().mean() >= 0.49),
    "quantised": levels,
    "lora": rank,
}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "distilled"])  # which is a scan's own twin
def test_each_kind_is_another_model_and_leaves_the_origin(kind: str, ground: Ground) -> None:
    before = state_hash(ground.origin.state())
    clip = KINDS[kind](ground)
    assert state_hash(ground.origin.state()) == before != state_hash(clip.state())
    for name, holds in PROPERTIES.items():
        assert of_matrices(clip, ground.origin, holds) is (name == kind), name
    plain = partial(state_hash, ground.tuned().state())
    assert state_hash(clip.state()) != plain()


def test_the_table_counts_by_kind() -> None:
    row = {"data": "gtsrb", "ca": {"hits": 9, "n": 10}, "versions": {}}
    rows = [{**row, "kind": "long", "backdoored": told} for told in (True, False, None)]
    lines = table([*rows, {**row, "kind": "lora", "backdoored": False}]).splitlines()
    assert lines[2].startswith("| long | 3 | 33.3% [6.1, 79.2] | 1 | 90.0%")
    assert lines[-1].startswith("| all | 4 | 25.0% [4.6, 69.9] | 1 |")
