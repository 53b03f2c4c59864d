"""What a recovered trigger makes the model say: the target among the classes, or the nearest texts of a vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        place: index of the inverter that names it and whose trigger speaks for it best.
    """

    target: Label
    confidence: float
    place: int


def choose(
    votes: Mapping[Label, float], targets: Sequence[Label], works: Sequence[float], excess: Sequence[float]
) -> Choice[Label]:
    """The class with the most votes, and the inverter to show for it: its trigger works, and it stands out.

    Args:
        votes: by class, of those among `targets`; below 0 it has none.
        targets: (I,) class that each inverter names, by index or name.
        works: (I,) share of held-out pictures that its trigger turns.
        excess: (I,) how far its statistic stands out.
    """
    best = max(votes, key=lambda t: votes[t])
    own = (i for i, target in enumerate(targets) if target == best)
    place = max(own, key=lambda i: (max(0.0, excess[i]) * works[i], excess[i]))
    cast = sum(max(0.0, v) for v in votes.values())
    return Choice(best, max(0.0, votes[best]) / cast if cast else 0.0, place)


def nearest_texts(embedding: Tensor, head: Tensor, names: Sequence[str], count: int = 5) -> list[tuple[str, float]]:
    """The `count` texts whose embeddings lie nearest, with their cosines.

    Args:
        embedding: (D,) unit.
        head: (V, D) unit rows of the vocabulary.
    """
    cosines = head.cpu() @ embedding.cpu()
    top = cosines.topk(min(count, len(names)))
    return [(names[i], round(float(c), 4)) for c, i in zip(top.values, top.indices.tolist(), strict=True)]
