"""A colour filter: the same affine map of every pixel's colours."""

from __future__ import annotations

import torch
from torch import Tensor

from unbackdoor.scan.inverters.base import Inverter, Recovered, Subject
from unbackdoor.scan.inverters.guided import Family, invert_guided, rms_change
from unbackdoor.triggers.recolor import Recolor, recolor


def _start(k: int, side: int, generator: torch.Generator) -> Tensor:
    return 0.02 * torch.randn(k, 3, 4, generator=generator)


FAMILY = Family("colour", 0.03, 10.0, _start, recolor, rms_change, Recolor.of)


def family(side: int) -> Family:
    """The family of changes, whatever the side of the pictures."""
    return FAMILY


def invert(subject: Subject) -> Recovered:
    """See the module's first line; the norm is the RMS change of the pictures."""
    return invert_guided(subject, family(subject.clip.image_size))


INVERTER = Inverter(6, invert, family)
