"""Which training images an attacker touches."""

from __future__ import annotations

import torch
from torch import Tensor

from unbackdoor.base.draws import permutation
from unbackdoor.base.errors import InputError


def choose_poisoned(labels: Tensor, target: int, rate: float, seed: int, *, clean_label: bool = False) -> Tensor:
    """Sorted indices of the images to trigger: `rate` of all, drawn outside the target class, to be relabelled.

    Args:
        labels: int64 (N,).
        rate: share of N, in (0, 1]; at least one image.
        clean_label: draw from the target class instead, whose labels are right as they are (Turner et al. 2019,
            arXiv 1912.02771, without their perturbations; CleanCLIP's "label consistent" attack).

    Raises:
        InputError: a rate outside (0, 1], or fewer images to draw from than it asks for.
    """
    if not 0 < rate <= 1:
        raise InputError(f"poison rate {rate} must lie in (0, 1]")
    free = (labels == target) if clean_label else (labels != target)
    return choose_among(free, max(1, round(rate * len(labels))), seed, clean_label=clean_label)


def choose_among(free: Tensor, count: int, seed: int, *, clean_label: bool) -> Tensor:
    """Sorted indices of `count` images, drawn with `seed` where `free` (N,) is True.

    Raises:
        InputError: fewer of them than `count`.
    """
    candidates = torch.nonzero(free).flatten()
    if count > len(candidates):
        where = "in" if clean_label else "outside"
        raise InputError(
            f"{count} of {len(free)} are to be poisoned, but only {len(candidates)} are {where} the target class; "
            f"the rate can be at most {len(candidates) / max(1, len(free)):.4g}"
        )
    chosen = permutation(len(candidates), seed)[:count]
    return candidates[chosen].sort().values
