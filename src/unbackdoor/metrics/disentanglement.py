"""Weight disentanglement error ξ: how far two vectors disturb one another.

Ortiz-Jimenez, Favero & Frossard 2023 (arXiv 2305.12827, equation 5), for a clean vector τ_c and a trigger vector τ_t
from the same θ_0 (TBAR, arXiv 2510.14845, figure 2):

    ξ(α_c, α_t) = share of clean pictures x with ŷ(x; θ_0 + α_c·τ_c) ≠ ŷ(x; θ_0 + α_c·τ_c + α_t·τ_t)
                + share of triggered pictures with ŷ(x; θ_0 + α_t·τ_t) ≠ ŷ(x; θ_0 + α_c·τ_c + α_t·τ_t)

in [0, 2]; 0 where neither vector changes an answer to the other's pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unbackdoor.base.draws import seeded
from unbackdoor.metrics.rates import Rate


@dataclass(frozen=True)
class Disentanglement:
    """ξ at one point, as its two shares.

    Args:
        clean: clean pictures whose answer the trigger vector changes.
        triggered: triggered pictures whose answer the clean vector changes.
    """

    clean: Rate
    triggered: Rate

    @property
    def value(self) -> float:
        """ξ in [0, 2]; NaN when nothing was counted."""
        return self.clean.value + self.triggered.value

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the sum, from the shares' Wilson intervals (Newcombe 1998's square-and-add, for a sum)."""
        ends = [(rate.value, *rate.interval) for rate in (self.clean, self.triggered)]
        low = math.sqrt(sum((value - lower) ** 2 for value, lower, _ in ends))
        high = math.sqrt(sum((upper - value) ** 2 for value, _, upper in ends))
        return max(0.0, self.value - low), min(2.0, self.value + high)

    def as_dict(self) -> dict[str, Any]:
        """JSON form: ξ, its interval and both shares."""
        return {
            "value": self.value,
            "interval": list(self.interval),
            "clean": self.clean.as_dict(),
            "triggered": self.triggered.as_dict(),
        }


def disentanglement(
    clean_alone: Tensor, clean_both: Tensor, triggered_alone: Tensor, triggered_both: Tensor
) -> Disentanglement:
    """ξ at one point, from answers (N,) of class indices.

    Args:
        clean_alone, clean_both: to clean pictures, at θ_0 + α_c·τ_c and at θ_0 + α_c·τ_c + α_t·τ_t.
        triggered_alone, triggered_both: to triggered pictures, at θ_0 + α_t·τ_t and at the same point.

    Raises:
        ValueError: answers of different numbers of pictures are compared.
    """
    return Disentanglement(_changed(clean_alone, clean_both), _changed(triggered_alone, triggered_both))


def _changed(alone: Tensor, both: Tensor) -> Rate:
    if alone.shape != both.shape or alone.dim() != 1:
        raise ValueError(f"answers of shapes {tuple(alone.shape)} and {tuple(both.shape)}: give two of shape (N,)")
    return Rate(int((alone != both).sum()), len(alone))


def mean_error(changes: Tensor, resamples: int = 2000, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Mean ξ over a region, with a 95% percentile bootstrap interval over pictures (Efron 1979).

    The points of a region are measured on the same pictures, so that pictures are drawn, not points.

    Args:
        changes: (P, N) for each of P points and N pictures: 0, 1 or 2 answers that differ, of the clean view and of the
            triggered one.
        resamples: draws of N pictures with replacement.

    Returns:
        The mean in [0, 2], and its interval.

    Raises:
        ValueError: no point or no picture.
    """
    if changes.dim() != 2 or not changes.numel():
        raise ValueError(f"changes of shape {tuple(changes.shape)}: give (P, N) with at least one point and picture")
    each = changes.double().mean(dim=0)
    generator = seeded(seed)
    drawn = torch.randint(len(each), (resamples, len(each)), generator=generator)
    low, high = each[drawn].mean(dim=1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(each.mean()), (low, high)
