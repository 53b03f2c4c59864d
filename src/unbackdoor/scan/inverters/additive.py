"""A pattern added to every pixel: what blends, waves and noise come down to."""

from __future__ import annotations

import torch
from torch import Tensor

from unbackdoor.scan.inverters.base import Inverter, Recovered, Subject
from unbackdoor.scan.inverters.guided import Family, invert_guided, rms_change
from unbackdoor.triggers.additive import Additive, add


def _start(k: int, side: int, generator: torch.Generator) -> Tensor:
    return 0.01 * torch.randn(k, 3, side, side, generator=generator)


FAMILY = Family("additive", 0.01, 20.0, _start, add, rms_change, Additive.of)


def family(side: int) -> Family:
    """The family of changes, whatever the side of the pictures."""
    return FAMILY


def invert(subject: Subject) -> Recovered:
    """See the module's first line; the norm is the RMS change of the pictures."""
    return invert_guided(subject, family(subject.clip.image_size))


INVERTER = Inverter(6, invert, family)
