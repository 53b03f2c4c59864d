"""What a recovered trigger makes the model say: the target among the classes, or the nearest texts of a vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unbackdoor.inversion.base import Recovered


def agree(found: Sequence[Recovered], weights: Tensor, classes: int) -> tuple[int, float]:
    """Target and confidence from all inverters: each votes for its target by how far it stands out times its strength.

    Args:
        weights: (I,) ≥ 0, how far each inverter's statistic stands out.
        classes: C candidates.

    Returns:
        The class with the most votes, and its share of them; (the first inverter's, 0) when nothing stands out.
    """
    votes = torch.zeros(classes)
    for row, weight in zip(found, weights.tolist(), strict=True):
        votes[row.target] += weight * row.works
    total = float(votes.sum())
    if not total:
        return found[0].target, 0.0
    best = int(votes.argmax())
    return best, float(votes[best]) / total


def nearest_texts(embedding: Tensor, head: Tensor, names: Sequence[str], count: int = 5) -> list[tuple[str, float]]:
    """The `count` texts whose embeddings lie nearest, with their cosines.

    Args:
        embedding: (D,) unit.
        head: (V, D) unit rows of the vocabulary.
    """
    cosines = head.cpu() @ embedding.cpu()
    top = cosines.topk(min(count, len(names)))
    return [(names[i], round(float(c), 4)) for c, i in zip(top.values, top.indices.tolist(), strict=True)]
