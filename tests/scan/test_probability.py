from __future__ import annotations

import math

import pytest

from unbackdoor.scan.probability import probability


@pytest.mark.parametrize(
    ("score", "low", "high"),
    [
        (-5.0, 0.006, 0.008),
        (0.0, 0.006, 0.008),
        (1.0, 0.05, 0.06),
        (4.0, 0.45, 0.55),
        (10.0, 0.9, 0.93),
        (1e6, 1 - 1e-9, 1),
    ],
)
def test_a_score_becomes_a_probability(score: float, low: float, high: float) -> None:
    assert low <= probability(score) <= high


def test_more_against_a_model_never_makes_it_likelier_to_be_clean() -> None:
    values = [probability(score / 10) for score in range(-20, 500)]
    assert values == sorted(values) and all(math.isfinite(v) and 0 < v < 1 for v in values)
