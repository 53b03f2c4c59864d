"""The one training loop: AdamW, cosine with warm-up, gradient clipping, EMA, resume after a kill.

A run is a pure function of its configuration: the batch is a function of the step (`loss_at(step)`), so the
only state is the weights, the optimiser's moments and the step count. A killed run therefore continues from
its last checkpoint and ends at the same weights as an unbroken one. Checkpoints are written every minute at the latest,
and when the user interrupts the run.

On several processes (see `training.parallel`) it runs unchanged: gradients are averaged, the first process writes.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from unbackdoor.base.errors import InputError, first_line
from unbackdoor.base.progress import Progress
from unbackdoor.base.work import Stage
from unbackdoor.training.parallel import Ranks, open_ranks
from unbackdoor.weights.files import read_tensors, write_tensors

CHECKPOINT_SECONDS = 60.0  # at most so long without a checkpoint, a step and its group apart


@dataclass(frozen=True)
class FitConfig:
    """Settings of one run of the loop.

    Args:
        steps: optimiser steps, at least 1.
        lr: peak learning rate.
        warmup: steps of linear warm-up from 0 (at most `steps`).
        min_lr: the cosine's end.
        weight_decay: AdamW's, applied to tensors of two or more dimensions only.
        betas: AdamW's moments.
        grad_clip: global gradient norm limit; 0 switches clipping off.
        ema: decay of the exponential moving average of the weights; 0 keeps none.
        checkpoint_every: steps between checkpoints, which come every minute in any case.
        together: so many steps, counted from the first, belong together, as `on_step` remembers something in between;
            checkpoints lie where one such group ends.
    """

    steps: int
    lr: float = 1e-5
    warmup: int = 0
    min_lr: float = 0.0
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    grad_clip: float = 1.0
    ema: float = 0.0
    checkpoint_every: int = 100
    together: int = 1


@dataclass
class FitResult:
    """What a run left behind: losses by step, time spent in this process, the step it resumed from, EMA weights.

    The losses are those of all steps, also of the steps before a kill.
    """

    steps: int
    seconds: float
    resumed_from: int
    losses: list[float] = field(default_factory=list)
    ema: dict[str, Tensor] = field(default_factory=dict)


def learning_rate(config: FitConfig, step: int) -> float:
    """Rate used by `step` (0-based): linear warm-up, then half a cosine from `lr` to `min_lr`."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    span = max(1, config.steps - config.warmup)
    share = (step - config.warmup) / span
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * share))


def fit(
    module: nn.Module,
    loss_at: Callable[[int], Tensor],
    config: FitConfig,
    stage: Stage | None = None,
    *,
    on_step: Callable[[int, float], None] | None = None,
) -> FitResult:
    """Minimise `loss_at(step)` over the parameters of `module` that require a gradient, in place.

    Args:
        module: holds the parameters and buffers that change; its train/eval mode is the caller's choice.
        loss_at: step (0-based) → scalar loss. It must depend on nothing but the step and the module's state, and, where
            it takes its process's slice of the batch, on the process; the mean over the processes is minimised.
        stage: what the training is called, and where a killed one goes on. Its key stands for what identifies the run
            besides `config` (data, weights).
        on_step: called after each step with (step, loss), before a checkpoint is written.

    Raises:
        InputError: the loss became NaN or infinite, or the checkpoint belongs to another run.
    """
    stage = stage or Stage()
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not named:
        raise InputError("nothing to train: every parameter of the module is frozen")
    params = list(named.values())
    ranks = open_ranks(params[0].device)
    optimizer = _optimizer(params, config)
    ema = [p.detach().clone() for p in params] if config.ema else []
    losses: list[float] = []
    keeper = _Keeper(stage.checkpoint, _run_key(config, stage.key, named), module, named, optimizer, ema, losses)
    start = keeper.restore()
    if not ranks.agree(start):
        raise InputError(
            f"{stage.checkpoint}: not every process finds the same checkpoint; use a folder that all share"
        )
    began = time.perf_counter()
    done, moving = start, False
    buffers = _versions(module)
    try:
        with Progress(stage.label, config.steps, start) as bar, torch.enable_grad():
            for step in range(start, config.steps):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(config, step)
                optimizer.zero_grad(set_to_none=True)
                loss = loss_at(step)
                value = _value(loss, ranks, step, stage.label)
                loss.backward()
                ranks.average_gradients(params)
                if config.grad_clip:
                    torch.nn.utils.clip_grad_norm_(params, config.grad_clip)
                moving = True
                optimizer.step()
                if ema:
                    # A young average follows quickly, so that the first, random weights leave no trace.
                    decay = min(config.ema, (step + 1) / (step + 10))
                    torch._foreach_lerp_(ema, [p.detach() for p in params], 1 - decay)
                losses.append(value)
                bar.step(step + 1, loss=value)
                if on_step:
                    on_step(step, value)
                done, moving = step + 1, False
                buffers = _versions(module)
                if keeper.due(done, config):
                    keeper.store(done)
    except KeyboardInterrupt:
        # Only where the weights stand between two steps, and no buffer was touched on the way to the next.
        if not moving and done % config.together == 0 and buffers == _versions(module):
            keeper.store(done)
        raise
    averages = dict(zip(named, ema, strict=True)) if ema else {}
    return FitResult(config.steps, time.perf_counter() - began, start, losses, averages)


def _optimizer(params: list[nn.Parameter], config: FitConfig) -> torch.optim.Optimizer:
    decayed, plain = [p for p in params if p.ndim >= 2], [p for p in params if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)


def _value(loss: Tensor, ranks: Ranks, step: int, label: str) -> float:
    """The loss as a number, its mean over the processes.

    Raises:
        InputError: it is NaN or infinite.
    """
    value = ranks.mean(loss.detach())
    if not math.isfinite(value):
        raise InputError(
            f"{label}: the loss became {value} at step {step}; lower the learning rate "
            "or check the weights and images for NaN"
        )
    return value


def _run_key(config: FitConfig, run_key: str, named: dict[str, nn.Parameter]) -> str:
    shapes = [(name, list(p.shape)) for name, p in named.items()]
    settings = {k: v for k, v in asdict(config).items() if k not in ("checkpoint_every", "together")}
    text = json.dumps([settings, run_key, shapes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _versions(module: nn.Module) -> list[int]:
    """How often each buffer has been written to."""
    return [buffer._version for buffer in module.buffers()]


@dataclass
class _Keeper:
    """The checkpoint of a run: weights, moments, buffers, losses and the step; nothing is kept without a file."""

    path: Path | None
    key: str
    module: nn.Module
    named: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    ema: list[Tensor]
    losses: list[float]
    _stored: int = 0

    def __post_init__(self) -> None:
        self._clock = time.monotonic()

    def due(self, done: int, config: FitConfig) -> bool:
        """Whether a checkpoint is to be written after `done` steps."""
        if self.path is None:
            return False
        if done == config.steps or done % config.checkpoint_every == 0:
            return True
        return done % config.together == 0 and time.monotonic() - self._clock >= CHECKPOINT_SECONDS

    def store(self, done: int) -> None:
        """Write it, unless it is there already."""
        if self.path is None or done <= self._stored:
            return
        tensors = {"losses": torch.tensor(self.losses[:done], dtype=torch.float64)}
        for i, (name, p) in enumerate(self.named.items()):
            tensors[f"weight/{name}"] = p.detach()
            # A parameter that has had no gradient yet has no moments; one that got its first later counts fewer steps.
            state = self.optimizer.state.get(p)
            if state:
                tensors[f"first/{name}"], tensors[f"second/{name}"] = state["exp_avg"], state["exp_avg_sq"]
                tensors[f"steps/{name}"] = torch.as_tensor(state["step"])
            if self.ema:
                tensors[f"ema/{name}"] = self.ema[i]
        for name, buffer in self.module.named_buffers():
            tensors[f"buffer/{name}"] = buffer
        write_tensors(self.path, tensors, {"run": self.key, "step": str(done)})
        self._stored, self._clock = done, time.monotonic()

    def restore(self) -> int:
        """Load it if there is one; returns the number of completed steps.

        Raises:
            InputError: it is of another run, or damaged.
        """
        path = self.path
        if path is None or not path.exists():
            return 0
        tensors, metadata = read_tensors(path)
        if metadata.get("run") != self.key:
            raise InputError(
                f"{path} belongs to a run with other settings, data or weights; remove it or choose another output "
                "folder"
            )
        try:
            self._load(tensors)
            self._stored = int(metadata["step"])
        except (KeyError, ValueError, RuntimeError) as error:
            raise InputError(f"{path}: a damaged checkpoint ({first_line(error)}); remove it to begin anew") from None
        return self._stored

    @torch.no_grad()
    def _load(self, tensors: dict[str, Tensor]) -> None:
        self.losses[:] = tensors["losses"].tolist()
        for i, (name, p) in enumerate(self.named.items()):
            p.copy_(tensors[f"weight/{name}"])
            if f"first/{name}" in tensors:
                self.optimizer.state[p] = {
                    "step": tensors[f"steps/{name}"].clone(),
                    "exp_avg": torch.empty_like(p).copy_(tensors[f"first/{name}"].view_as(p)),
                    "exp_avg_sq": torch.empty_like(p).copy_(tensors[f"second/{name}"].view_as(p)),
                }
            if self.ema:
                self.ema[i].copy_(tensors[f"ema/{name}"])
        for name, buffer in self.module.named_buffers():
            buffer.copy_(tensors[f"buffer/{name}"])
