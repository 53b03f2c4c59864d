"""Weight vectors: differences of state dicts, applied to live weights in place.

A vector is a plain dict of float32 tensors named as in the state dict it was taken from. Stepping the weights
costs one fused multiply-add per tensor; nothing is reloaded for another α.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from unbackdoor.base.errors import InputError
from unbackdoor.weights.aside import Aside
from unbackdoor.weights.files import read_tensors, write_tensors

Vector = dict[str, Tensor]


def snapshot(tensors: Mapping[str, Tensor]) -> Vector:
    """Independent float32 copies."""
    return {name: t.detach().float().clone() for name, t in tensors.items()}


@torch.no_grad()
def restore(tensors: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
    """Put a snapshot's values back, in place."""
    for name, t in tensors.items():
        t.copy_(kept[name])


def difference(after: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Vector:
    """`after − before`, in float32, tensor by tensor.

    Raises:
        InputError: the two do not hold the same names and shapes.
    """
    _same_layout(after, before, "the two state dicts")
    return {name: after[name].detach().float() - before[name].detach().float() for name in after}


def norm(vector: Mapping[str, Tensor]) -> float:
    """Euclidean norm over all tensors."""
    return math.sqrt(sum(float(t.detach().double().pow(2).sum()) for t in vector.values()))


@torch.no_grad()
def add_(weights: Mapping[str, Tensor], vector: Mapping[str, Tensor], scale: float) -> None:
    """`weights += scale · vector`, in place, for the tensors the vector holds.

    Raises:
        InputError: the vector names a tensor that the weights lack, or of another shape.
    """
    check_fits(weights, vector)
    names = distinct(weights, vector)
    torch._foreach_add_([weights[name] for name in names], [vector[name] for name in names], alpha=scale)


def distinct(weights: Mapping[str, Tensor], names: Iterable[str]) -> list[str]:
    """The names, but of those whose weights are one and the same tensor the first alone."""
    first: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    for name in names:
        w = weights[name]
        first.setdefault((w.data_ptr() if w.numel() else id(w), tuple(w.shape), w.stride()), name)
    return list(first.values())


class Walk:
    """Live weights at θ − α·τ for any α, stepped in place.

    Steps go from wherever the weights stand by Δα·τ. Rounding of many steps would add up, so that `settle` sets
    the weights to θ − α·τ computed once from the start, which is put aside.
    """

    def __init__(self, weights: Mapping[str, Tensor], vector: Mapping[str, Tensor]) -> None:
        check_fits(weights, vector)
        names = distinct(weights, vector)
        self._weights = {name: weights[name] for name in names}
        self._vector = {name: vector[name].to(weights[name]) for name in names}
        self._start = Aside(self._weights)
        self.alpha = 0.0

    def to(self, alpha: float) -> None:
        """Move to θ − alpha·τ by one in-place step."""
        add_(self._weights, self._vector, self.alpha - alpha)
        self.alpha = alpha

    @torch.no_grad()
    def settle(self, alpha: float) -> None:
        """Set the weights to θ − alpha·τ exactly, with a single rounding."""
        for name, weight in self._weights.items():
            weight.copy_(torch.add(self._start.fetch(name, weight), self._vector[name], alpha=-alpha))
        self.alpha = alpha


def save_vector(path: Path, vector: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a vector as safetensors; `metadata` tells where it came from."""
    write_tensors(path, vector, {"kind": "trigger vector", **metadata})


def load_vector(path: Path) -> tuple[Vector, dict[str, str]]:
    """Vector and metadata of a file written by `save_vector`.

    Raises:
        InputError: unreadable file, no tensors, or values that are not finite.
    """
    tensors, metadata = read_tensors(path)
    if not tensors:
        raise InputError(f"{path}: holds no tensors, so it is no trigger vector")
    for name, t in tensors.items():
        if not torch.isfinite(t).all():
            raise InputError(f"{path}: tensor {name} holds NaN or infinite values; make the vector again")
    return {name: t.float() for name, t in tensors.items()}, metadata


def check_fits(weights: Mapping[str, Tensor], vector: Mapping[str, Tensor]) -> None:
    """Whether the vector can be added to the weights.

    Raises:
        InputError: it names a tensor that the weights lack, or of another shape.
    """
    missing = [name for name in vector if name not in weights]
    if missing:
        raise InputError(
            f"the vector holds {len(missing)} tensors that the model lacks (first: {missing[0]}); "
            "it was taken from another architecture"
        )
    for name, t in vector.items():
        if t.shape != weights[name].shape:
            raise InputError(
                f"the vector's {name} is {tuple(t.shape)}, the model's {tuple(weights[name].shape)}; "
                "it was taken from another architecture"
            )


def _same_layout(a: Mapping[str, Tensor], b: Mapping[str, Tensor], what: str) -> None:
    if a.keys() != b.keys():
        odd = sorted(a.keys() ^ b.keys())
        raise InputError(f"{what} differ in {len(odd)} tensor names (first: {odd[0]})")
    for name in a:
        if a[name].shape != b[name].shape:
            raise InputError(f"{what} differ in {name}: {tuple(a[name].shape)} and {tuple(b[name].shape)}")
