"""A patch: mask and pattern, the smallest mask that pulls pictures to a class (Neural Cleanse, Wang et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from unbackdoor.scan.inverters.base import Inverter, Recovered, Subject
from unbackdoor.scan.inverters.guided import Family, invert_guided
from unbackdoor.triggers.masked import Masked, blend

_FIRST_MASK = -3.0  # of the sigmoid: 5% of every pixel, so that every place can be felt and none is taken


def _start(k: int, side: int, generator: torch.Generator) -> Tensor:
    raw = torch.randn(k, 4, side, side, generator=generator)
    raw[:, :1] = _FIRST_MASK + 0.1 * raw[:, :1]
    return raw


def _change(pictures: Tensor, raw: Tensor) -> Tensor:
    return blend(pictures, raw[:, :1].sigmoid(), raw[:, 1:].sigmoid())


def _size(raw: Tensor, pictures: Tensor, changed: Tensor) -> Tensor:
    return raw[:, :1].sigmoid().flatten(1).mean(dim=1)


def _trigger(raw: Tensor) -> Masked:
    return Masked.of(raw[:1].sigmoid(), raw[1:].sigmoid())


FAMILY = Family("patch", 0.5, 30.0, _start, _change, _size, _trigger)


def family(side: int) -> Family:
    """The family of changes, whatever the side of the pictures."""
    return FAMILY


def invert(subject: Subject) -> Recovered:
    """See the module's first line; the norm is the mask's share of the picture."""
    return invert_guided(subject, family(subject.clip.image_size))


INVERTER = Inverter(6, invert, family)
