"""A new linear head on frozen embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unbackdoor.base.draws import batch_rows, seeded
from unbackdoor.base.work import Work
from unbackdoor.training.finetune import TuneConfig, fit_config
from unbackdoor.training.loop import FitResult, fit
from unbackdoor.training.losses import zero_shot_cross_entropy


class LinearHead(nn.Module):
    """Bias-free rows (C, D), applied to unit embeddings and scaled as zero-shot logits are.

    Without a bias it can stand wherever a zero-shot head can.
    """

    def __init__(self, classes: int, width: int, scale: float, seed: int, device: torch.device) -> None:
        super().__init__()
        start = torch.randn(classes, width, generator=seeded(seed)) / width**0.5
        self.rows = nn.Parameter(start.to(device))
        self.scale = scale

    def loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of embeddings (B, D) with labels (B,)."""
        return zero_shot_cross_entropy(embeddings, self.rows, self.scale, labels)


def train_head(head: LinearHead, embeddings: Tensor, labels: Tensor, tune: TuneConfig, work: Work) -> FitResult:
    """Fit the rows in place to embeddings (N, D) of frozen towers."""
    labels = labels.to(embeddings.device)

    def loss_at(step: int) -> Tensor:
        rows = batch_rows(len(labels), tune.batch_size, tune.seed, step).to(embeddings.device)
        return head.loss(embeddings[rows], labels[rows])

    return fit(head, loss_at, fit_config(tune), work.stage("head", "linear head"))
