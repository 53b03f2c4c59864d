"""Rebound: does the backdoor come back when the cured model is fine-tuned on clean images?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unbackdoor.base import journal
from unbackdoor.base.devices import half_type
from unbackdoor.base.work import NOWHERE, Work
from unbackdoor.bench.recipe import Rebound
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.defenses.stages import labeled_batch
from unbackdoor.evaluation import Task, evaluate_images
from unbackdoor.training.finetune import TuneConfig, settle_lr, tune_towers
from unbackdoor.training.losses import zero_shot_cross_entropy


def trace_rebound(
    clip: Clip,
    clean: ImageSet,
    test: ImageSet,
    task: Task,
    config: Rebound,
    seed: int,
    work: Work = NOWHERE,
) -> list[dict[str, Any]]:
    """Fine-tune `clip` in place on clean labelled images, at the rate it was poisoned with, and trace CA and ASR.

    Args:
        clean: the defender's labelled images.
        task: classifier (kept fixed), trigger and target.
        config: how long, and on how many test images each point is measured.
        work: where what was done is kept, so that a killed run goes on.

    Returns:
        One entry per point: step and rates. The first is step 0, the cured model on the same images.
    """
    tune = TuneConfig(steps=config.steps, batch_size=config.batch_size, lr=config.lr, seed=seed)
    tune = settle_lr(tune, clip, "planting")
    sample = test.subset(torch.arange(min(config.images, len(test))))
    compute = half_type(clip.device)
    points = {round(config.steps * (i + 1) / config.points) for i in range(config.points)}
    log = work.log("rebound")
    trace: dict[int, dict[str, Any]] = {} if log is None else {r.step: r.rates for r in journal.read(log, _Point)}

    def measure(step: int) -> None:
        if step not in trace:
            trace[step] = evaluate_images(clip, sample, task).as_dict()
            if log is not None:
                journal.append(log, {"step": step, "rates": trace[step]})

    measure(0)

    def loss_at(step: int) -> Tensor:
        images, labels = labeled_batch(clean, tune, step, clip.device)
        return zero_shot_cross_entropy(clip.encode_image(images, compute=compute), task.head, clip.logit_scale, labels)

    def on_step(step: int, loss: float) -> None:
        if step + 1 in points:
            measure(step + 1)

    tune_towers(clip, loss_at, tune, work.stage("rebound"), on_step=on_step)
    return [{"step": step, **trace[step]} for step in sorted(trace)]


@dataclass(frozen=True)
class _Point:
    """A line of what is kept."""

    step: int
    rates: dict[str, Any]
