"""The one learning-rate rule."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch

from unbackdoor.training.finetune import TuneConfig, settle_lr
from unbackdoor.training.rates import PEAKS, SMALL_TOWER, Purpose, peak_rate


def tower(size: int) -> Any:
    """As much of a handle as the rule asks for."""
    return SimpleNamespace(image_parameters=lambda: {"w": torch.empty(size, device="meta")})


@pytest.mark.parametrize("purpose", get_args(Purpose))
def test_every_purpose_has_a_rate_that_the_size_decides(purpose: Purpose) -> None:
    small, large = peak_rate(purpose, tower(SMALL_TOWER - 1)), peak_rate(purpose, tower(SMALL_TOWER))
    assert (small, large) == PEAKS[purpose] and 0 < large <= small


@pytest.mark.parametrize(
    ("own", "asked", "settled"), [(0.0, None, 1e-3), (0.2, None, 0.2), (0.0, 0.3, 0.3), (0.2, 0.3, 0.3)]
)
def test_a_rate_that_is_asked_for_comes_first(own: float, asked: float | None, settled: float) -> None:
    assert settle_lr(TuneConfig(lr=own), tower(8), "planting", asked).lr == settled
