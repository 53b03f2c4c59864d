"""Every seed formula as it has been since the first published figure: numbers that were drawn before this file was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unbackdoor.base import draws
from unbackdoor.base.errors import InputError
from unbackdoor.data import scenes
from unbackdoor.triggers.base import draw


def test_steps_and_epochs() -> None:
    assert draws.step_seed(7, 9) == 7_000_030
    assert draws.batch_rows(10, 4, 3, 5).tolist() == [2, 7] and draws.batch_rows(10, 4, 3, 2).tolist() == [9, 7]
    assert draws.window_order(6, 5, 2, 3).tolist() == [5, 0, 2, 1, 3, 4]
    assert draws.window_order(6, -5, 0, 1).tolist() == [2, 3, 4, 0, 1, 5]


def test_keys() -> None:
    assert draws.unit_draws(torch.tensor([0, 5, 2**40]), 3, 2).tolist() == [
        0.35735176399437063, 0.23086398751680137, 0.9921905941887637,
    ]  # fmt: skip
    assert draws.unit_draws(torch.tensor([1]), -4, 1).tolist() == [0.2370102561385815]
    assert draws.drawn_index(torch.arange(6), 10, 1, 2) == [3, 0, 3, 6, 1, 0]
    assert scenes._hash(2, np.array([0, 7]), 3).tolist() == [15195693983923346674, 793837203896956729]


def test_triggers() -> None:
    assert draw(3, 4, lambda g: torch.rand(2, generator=g)).tolist() == [0.3007737398147583, 0.45484983921051025]
    assert draw(-3, 2**40, lambda g: torch.rand(1, generator=g)).tolist() == [0.8620807528495789]


@pytest.mark.parametrize("seed", [2**40 + 1, -(2**41)])
def test_seeds_that_no_generator_takes(seed: int) -> None:
    with pytest.raises(InputError, match="must lie between"):
        draws.check_seed(seed)
