"""A number per key: draws that need no state, so that any process can ask for any pair."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def unit_draws(keys: Tensor, seed: int, stream: int) -> Tensor:
    """float64 (B,) in [0, 1), a function of (seed, stream, key) alone; different streams are unrelated."""
    start = (seed * 0x9E3779B97F4A7C15 + stream * 0xD1342543DE82EF95) % 2**64
    with np.errstate(over="ignore"):
        x = keys.cpu().numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(start)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):  # splitmix64
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return torch.from_numpy((x >> np.uint64(11)).astype(np.float64) / 2**53)


def drawn_index(keys: Tensor, n: int, seed: int, stream: int) -> list[int]:
    """One of 0 … n − 1 for every key."""
    return (unit_draws(keys, seed, stream) * n).long().tolist()
