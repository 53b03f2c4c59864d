from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import binomtest

from unbackdoor.metrics.backdoor import (
    BackdoorMeter,
    add_classes,
    attack_success_rate,
    class_counts,
    clean_accuracy,
    triggered_accuracy,
)
from unbackdoor.metrics.rates import Rate, wilson


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (5, 10), (10, 10), (97, 1000), (1, 1), (1439, 1440)])
def test_wilson_agrees_with_scipy(hits: int, n: int) -> None:
    reference = binomtest(hits, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson(hits, n) == pytest.approx((reference.low, reference.high), abs=1e-12)


def test_wilson_solves_its_defining_equation() -> None:
    z = 1.959963984540054
    for hits, n in [(1, 7), (30, 31), (400, 1440)]:
        for p in wilson(hits, n):
            assert abs(hits / n - p) == pytest.approx(z * math.sqrt(p * (1 - p) / n), rel=1e-9)


def test_nothing_counted_knows_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert Rate(0, 0).as_dict() == {"value": None, "n": 0, "interval": [0.0, 1.0]}


@pytest.mark.parametrize(("hits", "n"), [(-1, 3), (4, 3)])
def test_impossible_counts_are_refused(hits: int, n: int) -> None:
    with pytest.raises(ValueError, match="between 0 and n"):
        wilson(hits, n)


LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 2, -1])
CLEAN = torch.tensor([0, 1, 1, 1, 2, 0, 2, 2])
TRIGGERED = torch.tensor([2, 0, 2, 1, 2, 2, 0, 2])  # target 2


def test_rates_by_hand() -> None:
    assert clean_accuracy(CLEAN, LABELS) == Rate(5, 7)
    # Outside the target class: rows 0, 1, 2, 3 and the unlabelled 7; the target is answered in 0, 2 and 7.
    assert attack_success_rate(TRIGGERED, LABELS, 2) == Rate(3, 5)
    assert attack_success_rate(TRIGGERED, LABELS, 2, "cleanclip") == Rate(3, 8)
    assert attack_success_rate(TRIGGERED, LABELS, 2, "par") == Rate(5, 8)
    assert triggered_accuracy(TRIGGERED, LABELS, 2) == Rate(2, 4)
    with pytest.raises(ValueError, match="none of"):
        attack_success_rate(TRIGGERED, LABELS, 2, "mine")


@pytest.mark.parametrize("split", [1, 3, 8])
def test_streaming_equals_functional_and_meters_add_up(split: int) -> None:
    meters = []
    for start in range(0, 8, split):
        part = slice(start, start + split)
        meter = BackdoorMeter(target=2)
        meter.update(LABELS[part], CLEAN[part], TRIGGERED[part])
        meters.append(meter)
    total = meters[0]
    for meter in meters[1:]:
        total = total + meter
    found = total.compute()
    assert found.ca == clean_accuracy(CLEAN, LABELS)
    assert found.asr == attack_success_rate(TRIGGERED, LABELS, 2)
    assert found.triggered_accuracy == triggered_accuracy(TRIGGERED, LABELS, 2)
    assert list(found.by_class) == class_counts(LABELS, CLEAN, TRIGGERED, 2)


def test_classes_by_hand() -> None:
    counts = class_counts(LABELS, CLEAN, TRIGGERED, 2)
    assert counts == [(2, 1, 1, 1), (2, 2, 1, 1), (3, 2, 2, 2)], "n, right clean, right triggered, moved"
    assert class_counts(LABELS, CLEAN, None, None) == [(2, 1, 0, 0), (2, 2, 0, 0), (3, 2, 0, 0)]
    assert class_counts(torch.tensor([-1]), torch.tensor([0]), None, None) == []
    assert sum(row.correct for row in counts) == clean_accuracy(CLEAN, LABELS).hits
    assert add_classes(counts[:1], counts) == [(4, 2, 2, 2), *counts[1:]] == add_classes(counts, counts[:1])


def test_without_a_target_only_ca_is_reported() -> None:
    meter = BackdoorMeter()
    meter.update(LABELS, CLEAN)
    assert list(meter.compute().as_dict()) == ["ca"]
