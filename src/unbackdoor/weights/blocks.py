"""Where in a model a vector sits: its tensors grouped by block, each block's share, rank and direction."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from unbackdoor.weights.names import block_of
from unbackdoor.weights.vector import Vector, norm


def blocks(vector: Mapping[str, Tensor]) -> dict[str, Vector]:
    """The vector cut into blocks, in the order of its tensors; together they are the vector."""
    parts: dict[str, Vector] = {}
    for name, t in vector.items():
        parts.setdefault(block_of(name), {})[name] = t
    return parts


def shares(vector: Mapping[str, Tensor]) -> dict[str, float]:
    """Share of ‖τ‖² in each block; they add up to 1 (all are 0 in a vector of zeros)."""
    whole = norm(vector) ** 2
    return {name: norm(part) ** 2 / whole if whole else 0.0 for name, part in blocks(vector).items()}


def cosine(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float | None:
    """Cosine of two vectors, a tensor that one of them lacks being 0 there; None where one is 0.

    Raises:
        ValueError: a tensor has another shape in the other.
    """
    product = 0.0
    for name in a.keys() & b.keys():
        if a[name].shape != b[name].shape:
            raise ValueError(f"{name} is {tuple(a[name].shape)} in one vector, {tuple(b[name].shape)} in the other")
        product += float((a[name].double() * b[name].double()).sum())
    size = norm(a) * norm(b)
    return product / size if size else None


def effective_rank(matrix: Tensor) -> float:
    """exp(entropy of the singular values, as shares of their sum) (Roy & Vetterli 2007): 1 to the full rank.

    Args:
        matrix: of two dimensions or more, the first against all others, as a convolution's kernel. 0 for zeros.

    Raises:
        ValueError: fewer than two dimensions.
    """
    if matrix.dim() < 2:
        raise ValueError(f"a tensor of shape {tuple(matrix.shape)} has no rank; give a matrix")
    values = torch.linalg.svdvals(matrix.detach().flatten(1).double())
    total = values.sum()
    if not total:
        return 0.0
    p = values / total
    return float(torch.exp(-(p * p.clamp_min(1e-300).log()).sum()))
