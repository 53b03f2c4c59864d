"""The one home of seeds: every draw is a function of a seed and of what is drawn for, never of what was drawn before.

So a resumed run draws as the whole run would have, and any process can ask for any image. The formulas are part of
every result that was ever published from here: they stay bit for bit.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from unbackdoor.base.errors import InputError

LARGEST_SEED = 2**40  # times a million, plus a step, it still is a generator's seed
# Two odd multipliers keep pairs of numbers apart.
_FIRST, _SECOND, _THIRD = 0x9E3779B97F4A7C15, 0xD1342543DE82EF95, 0x2545F4914F6CDD1D


def check_seed(seed: int) -> None:
    """Refuse a seed that no generator takes.

    Raises:
        InputError: it lies beyond ±2⁴⁰.
    """
    if abs(seed) > LARGEST_SEED:
        raise InputError(f"seed {str(seed)[:60]}: must lie between −2⁴⁰ and 2⁴⁰")


def seeded(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Random numbers that begin at a seed."""
    return torch.Generator(device).manual_seed(seed)


def permutation(n: int, seed: int) -> Tensor:
    """0 … n − 1 (n,) in an order of the seed's."""
    return torch.randperm(n, generator=seeded(seed))


# Which images a step sees ---------------------------------------------------------------------------------------------


def step_seed(seed: int, step: int) -> int:
    """A seed for one step or epoch, the same whenever it is run again."""
    return seed * 1_000_003 + step


@lru_cache(maxsize=4)
def _epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    return permutation(n, step_seed(seed, epoch))


def batch_rows(n: int, batch: int, seed: int, step: int) -> Tensor:
    """Row numbers (≤ batch,) of `step`: each epoch is a fresh permutation of n rows, its short rest included."""
    per_epoch = steps_per_epoch(n, batch)
    epoch, at = divmod(step, per_epoch)
    return _epoch_order(n, seed, epoch)[at * batch : (at + 1) * batch]


def steps_per_epoch(n: int, batch: int) -> int:
    """Steps that see each of n rows once."""
    return max(1, -(-n // batch))


@lru_cache(maxsize=4)
def window_order(n: int, seed: int, epoch: int, window: int) -> np.ndarray:
    """0 … n − 1 in an order of their own for every window of every epoch of a stream."""
    order: np.ndarray = permutation(n, (step_seed(seed, epoch) * 1_000_033 + window) % 2**63).numpy()
    return order


# What an image gets ---------------------------------------------------------------------------------------------------


def keyed_seed(seed: int, key: int) -> int:
    """A seed for one image; a generator takes 63 bits."""
    return (seed * _FIRST + key * _SECOND + _THIRD) % 2**63


def mixed(keys: np.ndarray, seed: int, stream: int, *, by: tuple[int, int] = (_FIRST, _SECOND)) -> np.ndarray:
    """splitmix64 of (seed, stream, key): uint64, one per key; different streams are unrelated.

    Args:
        by: multipliers of seed and stream.
    """
    with np.errstate(over="ignore"):
        x = keys.astype(np.uint64) * np.uint64(_FIRST)
        x += np.uint64((seed * by[0] + stream * by[1]) % 2**64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        hashes: np.ndarray = x ^ (x >> np.uint64(31))
    return hashes


def unit_draws(keys: Tensor, seed: int, stream: int) -> Tensor:
    """float64 (B,) in [0, 1), a function of (seed, stream, key) alone."""
    return torch.from_numpy((mixed(keys.cpu().numpy(), seed, stream) >> np.uint64(11)).astype(np.float64) / 2**53)


def drawn_index(keys: Tensor, n: int, seed: int, stream: int) -> list[int]:
    """One of 0 … n − 1 for every key."""
    return (unit_draws(keys, seed, stream) * n).long().tolist()
