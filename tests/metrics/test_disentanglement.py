from __future__ import annotations

import math

import pytest
import torch

from unbackdoor.metrics.disentanglement import disentanglement, mean_error
from unbackdoor.metrics.rates import wilson


@pytest.mark.parametrize(
    ("clean_alone", "clean_both", "triggered_alone", "triggered_both", "value"),
    [
        ([0, 1, 2, 3], [0, 1, 2, 3], [1, 1], [1, 1], 0.0),
        ([0, 1, 2, 3], [0, 1, 2, 0], [1, 1], [1, 1], 0.25),
        ([0, 1, 2, 3], [0, 1, 2, 3], [1, 1], [2, 1], 0.5),
        ([0, 1, 2, 3], [1, 2, 3, 0], [1, 1], [0, 0], 2.0),
    ],
)
def test_xi_is_the_sum_of_both_shares_of_changed_answers(
    clean_alone: list[int],
    clean_both: list[int],
    triggered_alone: list[int],
    triggered_both: list[int],
    value: float,
) -> None:
    found = disentanglement(*map(torch.tensor, (clean_alone, clean_both, triggered_alone, triggered_both)))
    assert found.value == value and (found.clean.n, found.triggered.n) == (4, 2)
    low, high = found.interval
    assert 0 <= low <= value <= high <= 2


def test_the_interval_is_that_of_a_sum_of_shares() -> None:
    a, b = torch.zeros(200), torch.zeros(100)
    found = disentanglement(a, torch.arange(200) < 40, b, torch.arange(100) < 30)
    low = 0.5 - math.hypot(0.2 - wilson(40, 200)[0], 0.3 - wilson(30, 100)[0])
    high = 0.5 + math.hypot(wilson(40, 200)[1] - 0.2, wilson(30, 100)[1] - 0.3)
    assert found.interval == pytest.approx((low, high))
    # Narrower than both intervals' ends together, as both are rarely off at once.
    assert low > wilson(40, 200)[0] + wilson(30, 100)[0]


def test_answers_of_different_pictures_are_not_compared() -> None:
    with pytest.raises(ValueError, match=r"\(N,\)"):
        disentanglement(torch.zeros(3), torch.zeros(4), torch.zeros(2), torch.zeros(2))


def test_the_mean_over_a_region_is_as_sure_as_its_pictures_are_many() -> None:
    # The same picture changes at all points or at none: a hundred points say no more than one.
    each = (torch.arange(400) < 100).double()
    for points in (1, 100):
        mean, (low, high) = mean_error(each.expand(points, -1))
        error = math.sqrt(0.25 * 0.75 / 400)
        assert mean == 0.25
        assert (low, high) == pytest.approx((0.25 - 1.96 * error, 0.25 + 1.96 * error), abs=0.01)
    assert mean_error(each[None], seed=1) != mean_error(each[None], seed=2)
    with pytest.raises(ValueError, match="at least one point"):
        mean_error(torch.zeros(0, 5))
