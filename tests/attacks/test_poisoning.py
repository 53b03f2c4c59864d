from __future__ import annotations

import pytest
import torch

from unbackdoor.attacks.poisoning import choose_poisoned
from unbackdoor.base.errors import InputError

LABELS = torch.arange(1000) % 10


@pytest.mark.parametrize(("rate", "count"), [(0.03, 30), (0.0001, 1), (0.9, 900)])
def test_poisoned_images_are_counted_and_never_of_the_target(rate: float, count: int) -> None:
    chosen = choose_poisoned(LABELS, 4, rate, seed=0)
    assert len(chosen) == count == len(set(chosen.tolist()))
    assert not bool((LABELS[chosen] == 4).any()) and chosen.tolist() == sorted(chosen.tolist())
    assert torch.equal(chosen, choose_poisoned(LABELS, 4, rate, seed=0))


def test_clean_label_poison_is_of_the_target_class_alone() -> None:
    chosen = choose_poisoned(LABELS, 4, 0.05, seed=0, clean_label=True)
    assert len(chosen) == 50 and bool((LABELS[chosen] == 4).all())
    with pytest.raises(InputError, match=r"only 100 are in the target class; the rate can be at most 0\.1"):
        choose_poisoned(LABELS, 4, 0.2, seed=0, clean_label=True)


def test_the_seed_matters() -> None:
    assert not torch.equal(choose_poisoned(LABELS, 4, 0.03, 0), choose_poisoned(LABELS, 4, 0.03, 1))


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, 0.95])
def test_impossible_rates(rate: float) -> None:
    with pytest.raises(InputError):
        choose_poisoned(LABELS, 4, rate, 0)
