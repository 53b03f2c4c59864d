"""A pattern added in frequency space: a few waves across the picture, the fewer and the lower the better.

A blend, a wave, a repeated shape or a low-frequency trigger is large in pixels, and an adversarial pattern of the same
effect is small, so that the size of `additive` hides it. In frequencies it is the other way round: the trigger is a
handful of waves. They are Fourier's and not the cosines of the DCT: a wave costs the same wherever its crest lies. The
three colours of a wave are one group, so that a grey wave costs less than three coloured ones.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from unbackdoor.base.draws import batch_rows
from unbackdoor.evaluation.answers import logits
from unbackdoor.scan.inverters import additive, guided
from unbackdoor.scan.inverters.base import Asked, Effort, Inverter, Recovered, Subject
from unbackdoor.scan.inverters.guided import Family, invert_guided
from unbackdoor.triggers.additive import Additive, add

CYCLES = 16  # across the picture, at most
RMS = math.sqrt(2) / 64  # of a wave of size 1
WEIGHT = 0.5  # so little that a trigger has to make the model certain, which waves of natural textures hardly do …
HEAVY = 6.0  # … but more at first, so that the waves that matter come alone
PROBED, PROBE, PROBED_PICTURES = 10, 6.0, 8  # cycles at most, height as a multiple of a wave of size 1, pictures
START = 0.02  # of which little is left after a few steps, so that every search comes to the same waves


def cycles(side: int) -> int:
    """The highest frequency of pictures of this side: below half a cycle per pixel."""
    return min(CYCLES, (side - 1) // 2)


@lru_cache(maxsize=8)
def waves(side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """e^{2πi·f·s/S} for pixel s and frequency f: (S, 2F + 1) for −F … F down, (S, F + 1) for 0 … F across."""
    top = cycles(side)
    place = torch.arange(side, dtype=torch.float64)[:, None] * 2 * math.pi / side
    down, across = place * torch.arange(-top, top + 1), place * torch.arange(top + 1)
    ones = torch.ones((), dtype=torch.float64)
    return tuple(torch.polar(ones, turn).to(device, torch.complex64) for turn in (down, across))  # type: ignore[return-value]


def pattern(raw: Tensor, side: int) -> Tensor:
    """(K, 3, S, S) sums of waves (K, 2F + 1, F + 1, 6), three colours' real and imaginary parts."""
    down, across = waves(side, raw.device)
    parts = torch.view_as_complex(raw.unflatten(-1, (3, 2)).contiguous()).permute(0, 3, 1, 2)
    return (down @ parts @ across.T).real / 32


def _start(k: int, side: int, generator: torch.Generator) -> Tensor:
    top = cycles(side)
    return START * torch.randn(k, 2 * top + 1, top + 1, 6, generator=generator)


def _change(pictures: Tensor, raw: Tensor) -> Tensor:
    return add(pictures, pattern(raw, pictures.shape[-1]))


def _size(raw: Tensor, pictures: Tensor, changed: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(raw, dim=-1)
    return norms.flatten(1).sum(dim=1) * RMS


def probes(side: int, device: torch.device) -> Tensor:
    """(P, 2F + 1, F + 1, 6) single grey waves of `PROBED` cycles at most, at four places of their crests each."""
    top = cycles(side)
    rows = []
    for across in range(min(top, PROBED) + 1):
        for down in range(-min(top, PROBED), min(top, PROBED) + 1):
            # A wave and the one that runs the opposite way are one; of no cycles at all is none.
            if down**2 + across**2 <= PROBED**2 and (across > 0 or down > 0):
                for turn in range(4):
                    raw = torch.zeros(2 * top + 1, top + 1, 6)
                    colors = (math.cos(turn * math.pi / 2), math.sin(turn * math.pi / 2))
                    raw[top + down, across] = PROBE / math.sqrt(3) * torch.tensor(colors * 3)
                    rows.append(raw)
    return torch.stack(rows).to(device)


@torch.no_grad()
def probe(subject: Subject, candidates: Tensor, raw: Tensor) -> Tensor:
    """Start each candidate at the single wave that pulls most of the pictures to it.

    A backdoor that asks for half of its wave's height shows nothing to a gradient at the height of zero. One look at a
    picture with a wave serves all candidates.
    """
    if not cycles(subject.clip.image_size):
        return raw
    waves = probes(subject.clip.image_size, raw.device)
    rows = batch_rows(len(subject.images), PROBED_PICTURES, subject.seed, 0)
    pictures = subject.images.float_batch(rows).to(raw.device)
    counts = (subject.own[rows][:, None] != candidates).to(raw)
    gains = []
    for some in waves.split(16):
        batch = pictures.repeat(len(some), 1, 1, 1)
        answers = logits(subject.clip, _change(batch, some), subject.head)
        share = answers.log_softmax(dim=-1).view(len(some), len(rows), -1)[..., candidates.to(raw.device)]
        gains.append((share * counts).sum(dim=1) / counts.sum(dim=0).clamp_min(1))
    return raw + waves[torch.cat(gains).argmax(dim=0)]


def family(side: int) -> Family:
    """The family of changes on pictures of this side."""

    def trigger(raw: Tensor) -> Additive:
        return Additive.of(pattern(raw[None], side)[0])

    return Family("spectral", 0.3, WEIGHT, _start, _change, _size, trigger, RMS, HEAVY, probe)


# A few waves are the least fragment of a trigger; more of it shows in patterns of pixels (`scan/variants.py`).


def stronger(trigger: Additive) -> Additive:
    """The same waves at twice their height: a search leaves the least that works, and the attacker's are higher."""
    return Additive.of(2 * trigger.delta())


def invert(subject: Subject) -> Recovered:
    """See the module's first lines; the norm is the sum of the waves' RMS changes."""
    return invert_guided(subject, family(subject.clip.image_size))


def effort(asked: Asked) -> Effort:
    """A guided search in full precision, and the look at single waves before it."""
    search = guided.effort(asked, half=False)
    looked = len(probes(asked.side, torch.device("cpu"))) * PROBED_PICTURES if cycles(asked.side) else 0
    return replace(search, forward=search.forward + looked)


INVERTER = Inverter(10, invert, family, additive.family, stronger, effort)
