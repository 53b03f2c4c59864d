"""A smooth warp of the whole picture, on a coarse grid of control points."""

from __future__ import annotations

import torch
from torch import Tensor

from unbackdoor.inversion.base import Recovered, Subject
from unbackdoor.inversion.guided import Family, invert_guided, rms_change
from unbackdoor.triggers.flow import Flow, warp

POINTS = 8


def _start(k: int, side: int, generator: torch.Generator) -> Tensor:
    return 0.1 * torch.randn(k, 2, POINTS, POINTS, generator=generator)


FAMILY = Family("warp", 0.2, 20.0, _start, warp, rms_change, Flow.of)


def family(side: int) -> Family:
    """The family of changes, whatever the side of the pictures."""
    return FAMILY


def invert(subject: Subject) -> Recovered:
    """See the module's first line; the norm is the RMS change of the pictures."""
    return invert_guided(subject, family(subject.clip.image_size))
