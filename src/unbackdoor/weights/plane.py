"""Live weights on the plane θ_0 + a·τ_a + b·τ_b, stepped in place."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from unbackdoor.weights.vector import add_, check_fits


class Plane:
    """Weights that walk on a plane; a step along one axis is one fused multiply-add per tensor.

    Rounding of many steps adds up, so that `settle` computes a point from the stored start.

    Args:
        weights: live tensors, by name.
        first, second: vectors a and b; tensors that only one of them holds are moved by that one alone.

    Raises:
        InputError: a vector names a tensor that the weights lack, or of another shape.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], first: Mapping[str, Tensor], second: Mapping[str, Tensor]
    ) -> None:
        self._vectors = []
        for vector in (first, second):
            check_fits(weights, vector)
            self._vectors.append({name: t.to(weights[name]) for name, t in vector.items()})
        self._weights = {name: weights[name] for name in {**first, **second}}
        self._start = {name: t.detach().clone() for name, t in self._weights.items()}
        self.place = (0.0, 0.0)

    def to(self, a: float, b: float) -> None:
        """Move by in-place steps, one for each coordinate that changes."""
        for vector, now, before in zip(self._vectors, (a, b), self.place, strict=True):
            if now != before:
                add_(self._weights, vector, now - before)
        self.place = (a, b)

    @torch.no_grad()
    def settle(self, a: float, b: float) -> None:
        """Set the weights to θ_0 + a·τ_a + b·τ_b from the start."""
        for name, weight in self._weights.items():
            point = self._start[name]
            for vector, scale in zip(self._vectors, (a, b), strict=True):
                if scale and name in vector:
                    point = torch.add(point, vector[name], alpha=scale)
            weight.copy_(point)
        self.place = (a, b)
