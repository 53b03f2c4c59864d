"""What a recovered trigger makes the model say: the target among the classes, or the nearest texts of a vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

Label = TypeVar("Label", int, str)


@dataclass(frozen=True)
class Choice(Generic[Label]):
    """What the inverters come to together.

    Args:
        target: the class with the most votes.
        confidence: its share of the votes; 0 when nothing stands out.
        shown: index of the inverter whose trigger speaks for it best.
    """

    target: Label
    confidence: float
    shown: int


def choose(targets: Sequence[Label], works: Sequence[float], excess: Sequence[float]) -> Choice[Label]:
    """Each inverter votes for its target by how far its statistic stands out times how well its trigger works.

    Args:
        targets: (I,) class of each inverter, by index or name.
        works: (I,) share of held-out pictures that its trigger turns.
        excess: (I,) how far its statistic stands out; below 0 it has no vote.
    """
    weights = [max(0.0, e) * w for e, w in zip(excess, works, strict=True)]
    total = sum(weights)
    if not total:
        leading = max(range(len(excess)), key=lambda i: excess[i])
        return Choice(targets[leading], 0.0, leading)
    votes: dict[Label, float] = {}
    for target, weight in zip(targets, weights, strict=True):
        votes[target] = votes.get(target, 0.0) + weight
    best = max(votes, key=lambda t: votes[t])
    shown = max((i for i, t in enumerate(targets) if t == best), key=lambda i: weights[i])
    return Choice(best, votes[best] / total, shown)


def nearest_texts(embedding: Tensor, head: Tensor, names: Sequence[str], count: int = 5) -> list[tuple[str, float]]:
    """The `count` texts whose embeddings lie nearest, with their cosines.

    Args:
        embedding: (D,) unit.
        head: (V, D) unit rows of the vocabulary.
    """
    cosines = head.cpu() @ embedding.cpu()
    top = cosines.topk(min(count, len(names)))
    return [(names[i], round(float(c), 4)) for c, i in zip(top.values, top.indices.tolist(), strict=True)]
