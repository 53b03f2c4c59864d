"""Training a tower through low-rank factors alone (LoRA, Hu et al. 2021, arXiv 2106.09685, section 4.1).

Every matrix W of a linear layer or convolution becomes W + B·A with A (r, in) and B (out, r), and only these learn. The
guard of a step (`training.guard`), a product from the right, is part of A here: W + B·(A·G) moves only where G lets it.

A has unit rows on average, B counts in units of W's own root mean square, and both begin with, or move by, elements of
about 1. Adam moves every element by the learning rate, and so takes steps relative to each matrix: one rate suits
towers whose weights differ in size (docs/lab/steps.md; You et al. 2020, arXiv 1904.00962, in the same spirit).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from unbackdoor.base.draws import seeded
from unbackdoor.base.errors import InputError
from unbackdoor.clip.handle import Clip
from unbackdoor.training.guard import Guard

_STACKED = "in_proj_weight"  # queries, keys and values in one: three matrices, each of its own rank


@dataclass(frozen=True)
class LowRank:
    """Factors that a tower's matrices are trained through.

    Args:
        factors: by parameter name; each knows its change of the weight.
    """

    factors: Mapping[str, Factors]

    def parameters(self) -> list[nn.Parameter]:
        """What learns."""
        return [p for f in self.factors.values() for p in f.parameters()]

    @torch.no_grad()
    def change(self) -> dict[str, Tensor]:
        """B·A by parameter name, in float32 and in the weight's shape."""
        return {name: f.change().clone() for name, f in self.factors.items()}


class Factors(nn.Module):
    """B·A of one weight, as a parametrisation of it; B begins at 0. `b` and `a` are these without their units."""

    def __init__(self, weight: Tensor, rank: int, parts: int, guard: Tensor | None, generator: torch.Generator) -> None:
        super().__init__()
        rows, inner = weight.shape[0] // parts, weight[0].numel()
        size = float(weight.detach().float().pow(2).mean().sqrt())
        # A matrix of zeros has no size of its own.
        self.unit = (size if size > 0 else 1.0) / inner**0.5
        a = torch.randn(parts, min(rank, rows, inner), inner, generator=generator)
        self.a = nn.Parameter(a.to(weight.device))
        self.b = nn.Parameter(torch.zeros(parts, rows, a.shape[1], device=weight.device))
        self.shape, self.guard = weight.shape, guard

    def change(self) -> Tensor:
        """The change of the weight."""
        a: Tensor = self.a
        if self.guard is not None:
            a = torch.einsum("prik,ij->prjk", a.unflatten(2, (self.shape[1], -1)), self.guard.float()).flatten(2)
        change: Tensor = self.unit * (self.b @ a)
        return change.reshape(self.shape)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight as the tower uses it."""
        with torch.autocast(weight.device.type, enabled=False):
            return weight + self.change()


@contextmanager
def low_rank(clip: Clip, rank: int, *, guard: Guard | None = None, seed: int = 0) -> Iterator[LowRank]:
    """The image tower of `clip`, with factors of `rank` in its matrices while the context lasts; W itself never moves.

    Args:
        rank: of every matrix, at least 1; smaller where the matrix is.
        guard: what clean images feel of a change (`training.guard.learn_guard`), None for plain LoRA.
        seed: of A.

    Raises:
        InputError: a rank below 1, or a tower without linear layers and convolutions.
    """
    if rank < 1:
        raise InputError(f"rank {rank}: must be at least 1")
    generator = seeded(seed)
    places = dict(_places(clip))
    if not places:
        raise InputError(f"{clip.reference}: its image tower has no linear layer and no convolution to adapt")
    factors: dict[str, Factors] = {}
    done: list[tuple[nn.Module, str, list[str]]] = []
    try:
        for name, sharing in places.items():
            weight, parts = getattr(*sharing[0]), 3 if sharing[0][1] == _STACKED else 1
            factors[name] = Factors(weight, rank, parts, None if guard is None else guard.factors[name], generator)
            for module, own in sharing:
                done.append((module, own, list(module._parameters)))
                parametrize.register_parametrization(module, own, factors[name])
        yield LowRank(factors)
    finally:
        for module, own, order in done:
            if parametrize.is_parametrized(module, own):
                parametrize.remove_parametrizations(module, own, leave_parametrized=False)
            # It comes back as the last of its module's; state dicts keep their order.
            for other in order[order.index(own) + 1 :]:
                module.register_parameter(other, module._parameters.pop(other))


def _places(clip: Clip) -> Iterator[tuple[str, list[tuple[nn.Module, str]]]]:
    """Every matrix by its name, with the modules that use it: more than one where they share it."""
    sharing: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in clip.model.modules():
        for own, p in module._parameters.items():
            if p is not None:
                sharing.setdefault(id(p), []).append((module, own))
    for name, p in clip.image_parameters().items():
        module, own = sharing[id(p)][0]
        stacked = own == _STACKED and isinstance(module, nn.MultiheadAttention)
        plain = isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
        if stacked or (own == "weight" and plain):
            yield name, sharing[id(p)]
