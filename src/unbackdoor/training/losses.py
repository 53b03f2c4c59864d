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


def distillation(embeddings: Tensor, teacher: Tensor, head: Tensor, scale: float) -> Tensor:
    """Cross-entropy of the student's class distribution against the teacher's, both over the same frozen head.

    Args:
        embeddings: (B, D) unit rows of the student.
        teacher: (B, D) unit rows of the frozen model on the same images.
    """
    with torch.no_grad():
        goal = (scale * teacher @ head.T).softmax(dim=1)
    return F.cross_entropy(scale * embeddings @ head.T, goal)
