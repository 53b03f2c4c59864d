"""The one training loop: AdamW, cosine with warm-up, gradient clipping, EMA, resume after a kill.

A run is a pure function of its configuration: the batch is a function of the step (`loss_at(step)`), so the
only state is the weights, the optimiser's moments and the step count. A killed run therefore continues from
its last checkpoint and ends at the same weights as an unbroken one.

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

from unbackdoor.errors import InputError
from unbackdoor.progress import Progress
from unbackdoor.training.parallel import open_ranks
from unbackdoor.weights.files import read_tensors, write_tensors


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
        checkpoint_every: steps between checkpoints.
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


@dataclass
class FitResult:
    """What a run left behind: losses by step, time spent in this process, the step it resumed from, EMA weights."""

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
    *,
    checkpoint: Path | None = None,
    run_key: str = "",
    label: str = "training",
    on_step: Callable[[int, float], None] | None = None,
) -> FitResult:
    """Minimise `loss_at(step)` over the parameters of `module` that require a gradient, in place.

    Args:
        module: holds the parameters and buffers that change; its train/eval mode is the caller's choice.
        loss_at: step (0-based) → scalar loss. It must depend on nothing but the step and the module's state, and, where
            it takes its process's slice of the batch, on the process; the mean over the processes is minimised.
        checkpoint: file to resume from and to write to; removed by the caller once the run's result is stored.
        run_key: whatever identifies the run besides `config` (data, weights); a checkpoint of another run is refused.
        on_step: called after each step with (step, loss).

    Raises:
        InputError: the loss became NaN or infinite, or the checkpoint belongs to another run.
    """
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not named:
        raise InputError("nothing to train: every parameter of the module is frozen")
    params = list(named.values())
    decayed = [p for p in params if p.ndim >= 2]
    plain = [p for p in params if p.ndim < 2]
    ranks = open_ranks(params[0].device)
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=config.lr,
        betas=config.betas,
    )
    ema = [p.detach().clone() for p in params] if config.ema else []
    key = _run_key(config, run_key, named)
    start = _restore(checkpoint, key, module, named, optimiser, ema) if checkpoint else 0
    if not ranks.agree(start):
        raise InputError(f"{checkpoint}: not every process finds the same checkpoint; use a folder that all share")
    result = FitResult(steps=config.steps, seconds=0.0, resumed_from=start)
    began = time.perf_counter()
    with Progress(label, config.steps, start) as bar:
        for step in range(start, config.steps):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(config, step)
            optimiser.zero_grad(set_to_none=True)
            loss = loss_at(step)
            value = ranks.mean(loss.detach())
            if not math.isfinite(value):
                raise InputError(
                    f"{label}: the loss became {value} at step {step}; lower the learning rate "
                    "or check the weights and images for NaN"
                )
            loss.backward()
            ranks.average_gradients(params)
            if config.grad_clip:
                torch.nn.utils.clip_grad_norm_(params, config.grad_clip)
            optimiser.step()
            if ema:
                # A young average follows quickly, so that the first, random weights leave no trace.
                decay = min(config.ema, (step + 1) / (step + 10))
                torch._foreach_lerp_(ema, [p.detach() for p in params], 1 - decay)
            result.losses.append(value)
            bar.step(step + 1, loss=value)
            if on_step:
                on_step(step, value)
            last = step + 1 == config.steps
            if checkpoint and (last or (step + 1) % config.checkpoint_every == 0):
                _store(checkpoint, key, step + 1, module, named, optimiser, ema)
    result.seconds = time.perf_counter() - began
    result.ema = dict(zip(named, ema, strict=True)) if ema else {}
    return result


def _run_key(config: FitConfig, run_key: str, named: dict[str, nn.Parameter]) -> str:
    shapes = [(name, list(p.shape)) for name, p in named.items()]
    settings = {k: v for k, v in asdict(config).items() if k != "checkpoint_every"}
    text = json.dumps([settings, run_key, shapes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _store(
    path: Path,
    key: str,
    step: int,
    module: nn.Module,
    named: dict[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    ema: list[Tensor],
) -> None:
    tensors: dict[str, Tensor] = {}
    for i, (name, p) in enumerate(named.items()):
        tensors[f"weight/{name}"] = p.detach()
        state = optimiser.state[p]
        tensors[f"first/{name}"], tensors[f"second/{name}"] = state["exp_avg"], state["exp_avg_sq"]
        if ema:
            tensors[f"ema/{name}"] = ema[i]
    for name, buffer in module.named_buffers():
        tensors[f"buffer/{name}"] = buffer
    write_tensors(path, tensors, {"run": key, "step": str(step)})


def _restore(
    path: Path,
    key: str,
    module: nn.Module,
    named: dict[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    ema: list[Tensor],
) -> int:
    """Load a checkpoint if there is one; returns the number of completed steps."""
    if not path.exists():
        return 0
    tensors, metadata = read_tensors(path)
    if metadata.get("run") != key:
        raise InputError(
            f"{path} belongs to a run with other settings, data or weights; remove it or choose another output folder"
        )
    step = int(metadata["step"])
    with torch.no_grad():
        for i, (name, p) in enumerate(named.items()):
            p.copy_(tensors[f"weight/{name}"])
            optimiser.state[p] = {
                "step": torch.tensor(float(step)),
                "exp_avg": tensors[f"first/{name}"].to(p.device).clone(),
                "exp_avg_sq": tensors[f"second/{name}"].to(p.device).clone(),
            }
            if ema:
                ema[i].copy_(tensors[f"ema/{name}"])
        for name, buffer in module.named_buffers():
            buffer.copy_(tensors[f"buffer/{name}"])
    return step
