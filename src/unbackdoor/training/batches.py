"""Which images a step sees: a pure function of (seed, step), so that a resumed run sees what it would have seen."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from unbackdoor.errors import InputError

LARGEST_SEED = 2**40  # times a million, plus a step, it still is a generator's seed


def check_seed(seed: int) -> None:
    """Refuse a seed that no generator takes.

    Raises:
        InputError: it lies beyond ±2⁴⁰.
    """
    if abs(seed) > LARGEST_SEED:
        raise InputError(f"seed {str(seed)[:60]}: must lie between −2⁴⁰ and 2⁴⁰")


def step_seed(seed: int, step: int) -> int:
    """A seed for one step or epoch, the same whenever it is run again."""
    return seed * 1_000_003 + step


@lru_cache(maxsize=4)
def _epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(step_seed(seed, epoch)))


def batch_rows(n: int, batch: int, seed: int, step: int) -> Tensor:
    """Row numbers (≤ batch,) of `step`: each epoch is a fresh permutation of n rows, its short rest included."""
    per_epoch = steps_per_epoch(n, batch)
    epoch, at = divmod(step, per_epoch)
    return _epoch_order(n, seed, epoch)[at * batch : (at + 1) * batch]


def steps_per_epoch(n: int, batch: int) -> int:
    """Steps that see each of n rows once."""
    return max(1, -(-n // batch))
