"""Who may use which image of a training split: the attacker its beginning, the defender its end."""

from __future__ import annotations

from torch import Tensor

from unbackdoor.base.draws import permutation
from unbackdoor.base.errors import InputError


def attacker_rows(n: int) -> Tensor:
    """Training images that `poison` may use: all but the last tenth (at least 768, at most 5,000 and a quarter)."""
    return _order(n)[: n - _reserve(n)].sort().values


def defender_rows(n: int, samples: int, validation: int) -> tuple[Tensor, Tensor]:
    """Disjoint forget and validation images, taken from the end that `poison` leaves alone.

    When the reserve is too small for both, training images are used as well; with fewer than `samples +
    validation` images in all, they are shared out in proportion.
    """
    order = _order(n).flip(0)
    total = min(n, samples + validation)
    forget = max(1, min(samples, total * samples // (samples + validation)))
    return order[:forget], order[forget:total]


def _reserve(n: int) -> int:
    return min(max(n // 10, 768), 5000, n // 4)


def _order(n: int) -> Tensor:
    return permutation(n, 0)


def shares(n: int, attacker: int, defender: int, validation: int) -> tuple[Tensor, Tensor, Tensor]:
    """Three disjoint shares of n training images, attacker's, defender's and for choices, the same for every seed.

    Raises:
        InputError: n images are too few for all three.
    """
    total = attacker + defender + validation
    if total > n:
        raise InputError(f"attacker, defender and validation ask for {total} images, but there are {n}; lower one")
    order = _order(n)
    own, rest = order[:attacker], order[attacker:].flip(0)
    return own.sort().values, rest[:defender], rest[defender : defender + validation]
