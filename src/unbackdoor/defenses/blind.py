"""Labels for a cure that knows none: the suspect's own answers, where it is sure of them.

Agreement with the suspect stands for clean accuracy. Where the suspect wavers its answer is often wrong, and changes
with any step; so the least sure quarter says nothing about what a cure costs, and is left out.
"""

from __future__ import annotations

from torch import Tensor

UNSURE = 0.25  # share of the pictures, by the margin between the two foremost classes


def margins(embeddings: Tensor, head: Tensor) -> Tensor:
    """By how much the foremost class leads the next, (N,) in cosines; 0 where there is one class.

    Args:
        embeddings: (N, D) unit rows.
        head: (C, D) unit rows.
    """
    top = (embeddings @ head.to(embeddings).T).topk(min(2, len(head)), dim=1).values
    return top[:, 0] - top[:, -1]


def sure_labels(said: Tensor, margin: Tensor, target: int) -> Tensor:
    """Answers (N,) as labels, −1 for the least sure; pictures answered with the target keep it, to be no attack's.

    Args:
        said: the suspect's answers, int64 (N,).
        margin: from `margins`.
    """
    unsure = margin < margin.quantile(UNSURE)
    return said.masked_fill(unsure & (said != target), -1)
