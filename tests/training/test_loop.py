from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from unbackdoor.errors import InputError
from unbackdoor.training.batches import batch_rows, steps_per_epoch
from unbackdoor.training.loop import FitConfig, fit, learning_rate


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))


def loss_of(model: nn.Module):  # type: ignore[no-untyped-def]
    def loss_at(step: int) -> torch.Tensor:
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        return (model(x) - x.sum(1, keepdim=True)).pow(2).mean()

    return loss_at


CONFIG = FitConfig(steps=30, lr=1e-2, warmup=5, ema=0.9, checkpoint_every=4)


def test_loss_falls() -> None:
    model = net()
    result = fit(model, loss_of(model), FitConfig(steps=200, lr=2e-2))
    assert sum(result.losses[-20:]) < 0.5 * sum(result.losses[:20])


class KilledError(Exception):
    pass


@pytest.mark.parametrize("at", [0, 3, 4, 17, 29])
def test_a_killed_run_ends_at_the_same_weights(tmp_path: Path, at: int) -> None:
    whole = net()
    unbroken = fit(whole, loss_of(whole), CONFIG)

    def die(step: int, _loss: float) -> None:
        if step == at:
            raise KilledError

    first = net()
    with pytest.raises(KilledError):
        fit(first, loss_of(first), CONFIG, checkpoint=tmp_path / "c", on_step=die)
    second = net()
    resumed = fit(second, loss_of(second), CONFIG, checkpoint=tmp_path / "c")
    assert resumed.resumed_from == at // 4 * 4
    for a, b in zip(whole.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for name, value in unbroken.ema.items():
        assert torch.equal(value, resumed.ema[name])


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    model = net()
    fit(model, loss_of(model), CONFIG, checkpoint=tmp_path / "c", run_key="a")
    with pytest.raises(InputError, match="other settings"):
        fit(model, loss_of(model), CONFIG, checkpoint=tmp_path / "c", run_key="b")


def test_nan_loss_is_told_in_one_line() -> None:
    model = net()
    with pytest.raises(InputError, match="became nan at step 0") as caught:
        fit(model, lambda _step: model[0].weight.sum() * math.nan, FitConfig(steps=2))
    assert "\n" not in str(caught.value)


def test_nothing_to_train_is_refused() -> None:
    model = net().requires_grad_(False)
    with pytest.raises(InputError, match="frozen"):
        fit(model, loss_of(model), FitConfig(steps=1))


def test_schedule() -> None:
    config = FitConfig(steps=100, lr=1.0, warmup=10, min_lr=0.1)
    rates = [learning_rate(config, s) for s in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.55, abs=0.01) and 0.1 < rates[-1] < 0.101
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_each_epoch_shows_every_row_once_and_differs_from_the_last() -> None:
    per_epoch = steps_per_epoch(10, 4)
    epochs = [torch.cat([batch_rows(10, 4, 0, e * per_epoch + s) for s in range(per_epoch)]) for e in range(2)]
    assert per_epoch == 3
    assert all(sorted(e.tolist()) == list(range(10)) for e in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert torch.equal(batch_rows(10, 4, 0, 4), batch_rows(10, 4, 0, 4))
