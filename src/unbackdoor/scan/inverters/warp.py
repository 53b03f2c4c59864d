"""A warp of the whole picture, one displacement per pixel: smooth waves and WaNet's jitter alike.

The size is the distance by which pixels move, and not the change that this makes: jitter moves little and changes much.
The search starts from a jitter of half a pixel, which pulls at a class that answers to warps long before the warp is
right.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unbackdoor.scan.inverters.base import Inverter, Recovered, Subject
from unbackdoor.scan.inverters.guided import Family, invert_guided
from unbackdoor.triggers.flow import Flow, warp

POINTS = 256  # per side at most


def _start(k: int, side: int, generator: torch.Generator) -> Tensor:
    points = min(side, POINTS)
    return 0.5 * torch.randn(k, 2, points, points, generator=generator)


def _size(raw: Tensor, pictures: Tensor, changed: Tensor) -> Tensor:
    return raw.pow(2).flatten(1).mean(dim=1).add(1e-8).sqrt()


FAMILY = Family("warp", 0.1, 1.5, _start, warp, _size, Flow.of)


def family(side: int) -> Family:
    """The family of changes, whatever the side of the pictures."""
    return FAMILY


def invert(subject: Subject) -> Recovered:
    """See the module's first lines; the norm is the RMS displacement in pixels of a 64-pixel-wide picture."""
    return invert_guided(subject, family(subject.clip.image_size))


INVERTER = Inverter(6, invert, family)
