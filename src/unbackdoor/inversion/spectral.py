"""A pattern added in frequency space: few, low frequencies of the discrete cosine transform, the fewer the better.

A blend, a wave or a low-frequency trigger is large in pixels, and an adversarial pattern of the same effect is small,
so that the size of `additive` hides it. In frequencies it is the other way round: the trigger is a handful of numbers.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from unbackdoor.inversion.base import Recovered, Subject
from unbackdoor.inversion.guided import Family, invert_guided
from unbackdoor.triggers.additive import Additive, add

BANDS = 16  # up to eight cycles across the picture


@lru_cache(maxsize=8)
def cosines(side: int, device: torch.device) -> Tensor:
    """(S, BANDS) orthonormal columns of the DCT-II."""
    place = (torch.arange(side, dtype=torch.float64) + 0.5) * math.pi / side
    basis = (place[:, None] * torch.arange(BANDS, dtype=torch.float64)).cos() * math.sqrt(2 / side)
    basis[:, 0] /= math.sqrt(2)
    return basis.float().to(device)


def pattern(raw: Tensor, side: int) -> Tensor:
    """(K, 3, S, S) added values of coefficients (K, 3, BANDS, BANDS); one coefficient of 1 has an RMS of 1 / 64."""
    basis = cosines(side, raw.device)
    return side / 64 * (basis @ raw @ basis.T)


def _start(k: int, side: int, generator: torch.Generator) -> Tensor:
    return 0.02 * torch.randn(k, 3, BANDS, BANDS, generator=generator)


def _change(pictures: Tensor, raw: Tensor) -> Tensor:
    return add(pictures, pattern(raw, pictures.shape[-1]))


def _size(raw: Tensor, pictures: Tensor, changed: Tensor) -> Tensor:
    return raw.abs().flatten(1).sum(dim=1) / 64


def family(side: int) -> Family:
    """The family of changes on pictures of this side."""

    def trigger(raw: Tensor) -> Additive:
        return Additive.of(pattern(raw[None], side)[0])

    return Family("spectral", 0.1, 3.0, _start, _change, _size, trigger)


def invert(subject: Subject) -> Recovered:
    """See the module's first lines; the norm is the sum of the coefficients' sizes over 64, the RMS if one is alone."""
    return invert_guided(subject, family(subject.clip.image_size))
