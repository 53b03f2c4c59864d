"""The step that a training measures on its own loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from unbackdoor.training.stride import LONGEST, SHORTEST, stride

Loss = Callable[[int], Tensor]


def valley(goal: float, width: float = 1.0) -> tuple[nn.Parameter, Loss]:
    """Along Adam's first step the loss is lowest at `goal`, however wide the valley is."""
    p = nn.Parameter(torch.zeros(5))
    return p, lambda step: ((p - goal) / width).pow(2).sum() * (1 + step)


@pytest.mark.parametrize("goal", [2e-5, 1e-3, 0.007, 0.2])
@pytest.mark.parametrize("width", [1e-3, 1.0, 1e3])
def test_the_length_is_where_the_loss_is_lowest_whatever_its_scale(goal: float, width: float) -> None:
    p, loss_at = valley(goal, width)
    assert stride(loss_at, [p]) == pytest.approx(goal, rel=0.05)
    assert p.grad is None and torch.equal(p.detach(), torch.zeros(5)), "it comes back as it was"


def test_what_softens_a_step_makes_it_longer() -> None:
    p, loss_at = valley(0.01)
    assert stride(loss_at, [p], lambda _, step: step / 8) == pytest.approx(8 * stride(loss_at, [p]), rel=0.05)


def test_a_loss_that_explodes_ends_the_search() -> None:
    p = nn.Parameter(torch.zeros(1))
    lengths = []

    def loss_at(_: int) -> Tensor:
        lengths.append(p.item())
        return (p - 1e-3).pow(2).sum() if p.item() < 2e-3 else p.sum() * math.nan

    assert stride(loss_at, [p]) == pytest.approx(1e-3, rel=0.05)
    assert max(lengths) < 0.1 < LONGEST


def test_where_nothing_can_be_learnt_the_step_is_the_shortest() -> None:
    p = nn.Parameter(torch.zeros(3))
    assert stride(lambda _: (p * 0).sum(), [p]) == SHORTEST
    assert stride(lambda _: p.pow(2).sum() + 1, [p]) == SHORTEST, "already at the lowest place"
