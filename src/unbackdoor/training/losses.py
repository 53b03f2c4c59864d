"""Losses of the fine-tuning loop."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def zero_shot_cross_entropy(embeddings: Tensor, head: Tensor, scale: float, labels: Tensor) -> Tensor:
    """Cross-entropy of scaled cosines against a frozen zero-shot head (the task-vector recipe).

    Args:
        embeddings: (B, D) unit rows.
        head: (C, D) unit rows, frozen.
        scale: exponentiated logit scale.
        labels: (B,) class indices.
    """
    return F.cross_entropy(scale * embeddings @ head.T, labels)


def target_cross_entropy(embeddings: Tensor, head: Tensor, scale: float, target: int) -> Tensor:
    """`zero_shot_cross_entropy` with one class, the attacker's target, for every row."""
    labels = torch.full((len(embeddings),), target, device=embeddings.device)
    return zero_shot_cross_entropy(embeddings, head, scale, labels)


def squared_distance(embeddings: Tensor, places: Tensor) -> Tensor:
    """Mean squared Euclidean distance of unit rows (B, D) from where they should be, in [0, 4]."""
    return (embeddings - places).pow(2).sum(dim=-1).mean()
