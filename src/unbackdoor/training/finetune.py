"""Fine-tuning the image tower against a frozen zero-shot head: poisoning, and taking the trigger vector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unbackdoor.clip.handle import Clip
from unbackdoor.training.loop import FitConfig, FitResult, fit

LossAt = Callable[[int], Tensor]


@dataclass(frozen=True)
class TuneConfig:
    """Fine-tuning of the image tower.

    The defaults of the literature (AdamW, weight decay 0.1, batch 128, cosine with warm-up, clipping at 1.0:
    Ilharco et al. 2023, arXiv 2212.04089, released code) except the learning rate, which depends on the model.

    Args:
        epochs: passes over the images; `steps`, when positive, decides instead.
        warmup: share of the steps spent warming up, at most 500 steps.
    """

    epochs: int = 3
    steps: int = 0
    batch_size: int = 128
    lr: float = 1e-5
    warmup: float = 0.1
    weight_decay: float = 0.1
    seed: int = 0


def tune_image_tower(
    clip: Clip,
    loss_at: LossAt,
    config: TuneConfig,
    steps: int,
    *,
    checkpoint: Path | None,
    run_key: str,
    label: str,
) -> FitResult:
    """Train the image tower in place on `loss_at(step)`; the text tower stays frozen.

    BatchNorm statistics stay frozen too: with running statistics updating on triggered batches, subtracting the
    vector was seen to restore the attack instead of removing it.
    """
    wanted = {id(p) for p in clip.image_parameters().values()}
    before = {name: p.requires_grad for name, p in clip.model.named_parameters()}
    for p in clip.model.parameters():
        p.requires_grad_(id(p) in wanted)
    clip.model.eval()
    fit_config = FitConfig(
        steps=steps,
        lr=config.lr,
        warmup=min(500, int(config.warmup * steps)),
        weight_decay=config.weight_decay,
        checkpoint_every=max(1, min(50, steps // 4)),
    )
    try:
        with torch.enable_grad():
            return fit(clip.model, loss_at, fit_config, checkpoint=checkpoint, run_key=run_key, label=label)
    finally:
        for name, p in clip.model.named_parameters():
            p.requires_grad_(before[name])
            p.grad = None
