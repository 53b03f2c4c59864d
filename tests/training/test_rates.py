"""The one learning-rate rule."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch

import unbackdoor
from unbackdoor.training.finetune import TuneConfig, settle_lr
from unbackdoor.training.rates import PEAKS, SMALL_TOWER, Purpose, peak_rate
from unbackdoor.unlearning.vector import METHODS, settled


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


@pytest.mark.parametrize(
    ("method", "measured"), [("lora", True), ("distilled", True), ("anchored", False), ("tbar", False)]
)
def test_ways_back_know_no_rate_by_size(method: str, measured: bool) -> None:
    """A rank steps relative to each matrix, the whole tower by what is measured, unless somebody gives a rate."""
    for size in (8, SMALL_TOWER):
        assert (settled(METHODS[method], tower(size)).tune.lr == 0) == measured
        assert settled(METHODS[method], tower(size), 0.3).tune.lr == 0.3


def test_no_other_module_asks_for_the_size() -> None:
    source = Path(unbackdoor.__file__).parent
    asking = {p.relative_to(source).as_posix() for p in source.rglob("*.py") if "SMALL_TOWER" in p.read_text("utf-8")}
    assert asking == {"training/rates.py"}
