from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from unbackdoor.base.draws import batch_rows, steps_per_epoch
from unbackdoor.base.errors import InputError
from unbackdoor.base.work import Stage
from unbackdoor.training import loop
from unbackdoor.training.loop import FitConfig, fit, learning_rate
from unbackdoor.weights.files import read_tensors, write_tensors


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
        fit(first, loss_of(first), CONFIG, Stage(checkpoint=tmp_path / "c"), on_step=die)
    second = net()
    resumed = fit(second, loss_of(second), CONFIG, Stage(checkpoint=tmp_path / "c"))
    assert resumed.resumed_from == at // 4 * 4
    for a, b in zip(whole.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for name, value in unbroken.ema.items():
        assert torch.equal(value, resumed.ema[name])


class Odd(nn.Module):
    """What towers have beside plain layers: idle, late, frozen, shared, scalar and whole-number parameters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = net()
        self.twin = nn.Linear(4, 8)
        self.twin.weight = self.body[0].weight
        self.idle = nn.Parameter(torch.zeros(1, 4))
        self.late = nn.Parameter(torch.ones(1))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.scalar = nn.Parameter(torch.tensor(1.0))
        self.places = nn.Parameter(torch.arange(3), requires_grad=False)
        self.register_buffer("passing", torch.arange(4), persistent=False)
        self.register_buffer("none", None)

    def loss_at(self, step: int) -> torch.Tensor:
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        y = self.body(x) * self.scalar + self.twin(x).mean()
        if step >= 10:
            y = y * self.late
        return (y - x.sum(1, keepdim=True)).pow(2).mean()


@pytest.mark.parametrize("at", [5, 11, 17, 29])
def test_parameters_without_a_gradient_train_and_resume(tmp_path: Path, at: int) -> None:
    whole = Odd()
    unbroken = fit(whole, whole.loss_at, CONFIG)

    def die(step: int, _loss: float) -> None:
        if step == at:
            raise KilledError

    first, second = Odd(), Odd()
    with pytest.raises(KilledError):
        fit(first, first.loss_at, CONFIG, Stage(checkpoint=tmp_path / "c"), on_step=die)
    resumed = fit(second, second.loss_at, CONFIG, Stage(checkpoint=tmp_path / "c"))
    assert resumed.resumed_from == at // 4 * 4 and resumed.losses == unbroken.losses
    assert second.twin.weight is second.body[0].weight
    assert float(second.late.detach()) != 1.0 and torch.equal(second.idle, Odd().idle)
    for a, b in zip(whole.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("together", [1, 2, 3])
def test_a_checkpoint_is_written_every_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    minutes = iter(range(0, 100_000, 61))  # a minute between any two readings of the clock
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(minutes), perf_counter=lambda: 0.0))
    config = FitConfig(steps=9, checkpoint_every=100, together=together)
    written = []
    monkeypatch.setattr(loop, "write_tensors", lambda path, tensors, facts: written.append(int(facts["step"])))
    model = net()
    fit(model, loss_of(model), config, Stage(checkpoint=tmp_path / "c"))
    assert written[-1] == 9 and len(written) >= 3
    assert all(step % together == 0 for step in written[:-1]), written


def test_quick_runs_write_no_more_checkpoints_than_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    monkeypatch.setattr(loop, "write_tensors", lambda path, tensors, facts: written.append(int(facts["step"])))
    model = net()
    fit(model, loss_of(model), FitConfig(steps=9, checkpoint_every=4), Stage(checkpoint=tmp_path / "c"))
    assert written == [4, 8, 9]


@pytest.mark.parametrize(
    ("where", "step", "together", "kept"),
    [
        ("loss", 7, 1, 7),  # between two steps: nothing is lost
        ("loss", 7, 2, None),  # half of a group of steps: the group is made again
        ("loss", 6, 2, 6),
        ("after", 7, 1, None),  # weights have moved, what follows a step has not been done
        ("buffer", 7, 1, None),  # a statistic has moved
        ("loss", 0, 1, None),
    ],
)
def test_an_interrupt_keeps_what_is_whole(
    tmp_path: Path, where: str, step: int, together: int, kept: int | None
) -> None:
    config = replace(CONFIG, checkpoint_every=1000, together=together)
    whole = net().eval()
    fit(whole, loss_of(whole), config)
    first = net().eval()
    loss = loss_of(first)

    def interrupted(now: int) -> torch.Tensor:
        if now == step and where == "loss":
            raise KeyboardInterrupt
        if now == step and where == "buffer":
            first[1].running_mean.add_(1)
            raise KeyboardInterrupt
        return loss(now)

    def after(now: int, _loss: float) -> None:
        if now == step and where == "after":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(first, interrupted, config, Stage(checkpoint=tmp_path / "c"), on_step=after)
    assert (tmp_path / "c").exists() == (kept is not None)
    second = net().eval()
    resumed = fit(second, loss_of(second), config, Stage(checkpoint=tmp_path / "c"))
    assert resumed.resumed_from == (kept or 0)
    for a, b in zip(whole.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("drop", ["first/0.weight", "weight/3.bias", "losses", "buffer/1.running_mean"])
def test_a_damaged_checkpoint_is_told_in_one_line(tmp_path: Path, drop: str) -> None:
    model = net()
    fit(model, loss_of(model), CONFIG, Stage(checkpoint=tmp_path / "c"))
    tensors, facts = read_tensors(tmp_path / "c")
    if drop == "first/0.weight":
        tensors[drop] = tensors[drop][:1]
    else:
        del tensors[drop]
    write_tensors(tmp_path / "c", tensors, facts)
    with pytest.raises(InputError, match="damaged checkpoint"):
        fit(model, loss_of(model), CONFIG, Stage(checkpoint=tmp_path / "c"))


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    model = net()
    fit(model, loss_of(model), CONFIG, Stage("training", tmp_path / "c", "a"))
    with pytest.raises(InputError, match="other settings"):
        fit(model, loss_of(model), CONFIG, Stage("training", tmp_path / "c", "b"))


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
