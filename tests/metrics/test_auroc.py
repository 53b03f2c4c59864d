"""AUROC against scikit-learn's, and an interval that covers."""

from __future__ import annotations

import random

import pytest

from unbackdoor.metrics.auroc import auroc


def test_matches_scikit_learn_with_ties() -> None:
    from sklearn.metrics import roc_auc_score

    chance = random.Random(0)
    for _ in range(20):
        high = [chance.randint(0, 9) + 2 for _ in range(chance.randint(1, 15))]
        low = [chance.randint(0, 9) for _ in range(chance.randint(1, 15))]
        expected = roc_auc_score([1] * len(high) + [0] * len(low), high + low)
        assert auroc(high, low).value == pytest.approx(expected)


@pytest.mark.parametrize(("high", "low", "value"), [([2.0], [1.0], 1.0), ([1.0], [2.0], 0.0), ([1.0], [1.0], 0.5)])
def test_interval_holds_the_value_and_stays_in_range(high: list[float], low: list[float], value: float) -> None:
    found = auroc(high * 9, low * 7)
    lower, upper = found.interval
    assert found.value == value and 0 <= lower <= value <= upper <= 1 and upper - lower > 0.05


def test_interval_covers_about_as_often_as_it_says() -> None:
    chance, truth, hits = random.Random(1), 0.760250, 0  # P(N(1,1) > N(0,1)) = Φ(1/√2)
    runs = 400
    for _ in range(runs):
        high = [chance.gauss(1, 1) for _ in range(20)]
        low = [chance.gauss(0, 1) for _ in range(15)]
        lower, upper = auroc(high, low).interval
        hits += lower <= truth <= upper
    assert 0.91 < hits / runs < 0.99


def test_refuses_an_empty_side() -> None:
    with pytest.raises(ValueError, match="at least one"):
        auroc([], [1.0])
