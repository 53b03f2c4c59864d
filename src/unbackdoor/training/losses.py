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


def contrastive(images: Tensor, texts: Tensor, scale: float, groups: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE of CLIP (Radford et al. 2021, arXiv 2103.00020, figure 3).

    Args:
        images, texts: (B, D) unit rows; row i of one belongs to row i of the other.
        scale: exponentiated logit scale.
        groups: int64 (B,); rows with the same number ≥ 0 say the same thing, such as two captions of one class, and
            share the target evenly (UniCL, Yang et al. 2022, arXiv 2204.03610) instead of being pushed apart.
    """
    logits = scale * images @ texts.T
    if groups is None:
        own = torch.arange(len(images), device=images.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    same = (groups[:, None] == groups[None]) & (groups >= 0)
    same |= torch.eye(len(groups), dtype=torch.bool, device=groups.device)
    share = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, share.to(logits)) + F.cross_entropy(logits.T, share.to(logits))) / 2
