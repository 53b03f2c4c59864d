"""Steps for a size that is a sum of norms: follow the loss's gradient, then shrink every group by the same threshold.

A sum of norms wants groups that are exactly zero. Adam on loss plus size never gets there: each of a thousand groups
trembles by the learning rate, and the sum of what trembles hides the few that matter. Shrinking (iterative shrinkage,
Beck and Teboulle 2009, section 1; for adaptive steps Yun et al. 2021, arXiv 2007.07605) sets to zero what the loss does
not ask for. One scale per candidate, unlike Adam's one per number, lets groups with the largest gradients come first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

BETAS = (0.8, 0.99)  # of the gradient, of its square: a slow scale, as a fast one explodes where the loss is flat


class Proximal(Optimizer):
    """Proximal steps on raw parameters (K, …, d): K candidates apart, groups of d numbers.

    Args:
        raw: the parameters.
        lr: step for a gradient as large as the candidate's usual one.
        shrink: weight of the sum of the groups' Euclidean norms.
    """

    def __init__(self, raw: Tensor, lr: float, shrink: float) -> None:
        super().__init__([raw], {"lr": lr, "shrink": shrink})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step along the gradients that are there, then the shrinking."""
        loss = closure() if closure else None
        for group in self.param_groups:
            for raw in group["params"]:
                self._move(raw, raw.grad, group)
        return loss

    def _move(self, raw: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, apart = self.state[raw], (-1, *([1] * (raw.dim() - 1)))
        if not state:
            state |= {"step": torch.zeros(()), "mean": torch.zeros_like(raw), "square": raw.new_zeros(len(raw))}
        state["step"] += 1
        state["mean"].lerp_(grad, 1 - BETAS[0])
        state["square"].lerp_(grad.pow(2).sum(dim=-1).flatten(1).mean(dim=1), 1 - BETAS[1])
        first, second = (1 - beta ** float(state["step"]) for beta in BETAS)
        rate = (group["lr"] / (state["square"] / second).sqrt().clamp_min(1e-8)).view(apart)
        raw.sub_(rate * state["mean"] / first)
        shrunk = 1 - rate * group["shrink"] / raw.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        raw.mul_(shrunk.clamp_min(0))
