"""Clean relatives of a suspect: its origin, fine-tuned on the defender's own pictures, each time differently.

They are clean by construction, as no picture bears a trigger, and stand for what a suspect would look like if it were
clean. What they do not stand for is a suspect that was trained on many more or on other pictures than these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from unbackdoor.base.devices import half_type
from unbackdoor.base.draws import batch_rows, seeded, step_seed
from unbackdoor.base.work import NOWHERE, Work
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.evaluation.answers import logits
from unbackdoor.training.finetune import LossAt, TuneConfig, tune_towers
from unbackdoor.training.rates import peak_rate

BATCH = 64
LEAST_STEPS, MOST_STEPS = 60, 160  # four to ten times through a thousand pictures
RATES = 3.0  # the rate lies between 1/3 and 3 times the usual one


@dataclass(frozen=True)
class Kin:
    """What relatives are made of.

    Args:
        origin: a clean model of the suspect's architecture, such as the public checkpoint that it was made from.
        images: clean pictures to learn on.
        labels: (N,) classes of the pictures, those of the data or the suspect's answers.
        head: (C, D) unit rows, the zero-shot head over the classes.
        seed: of every draw.
    """

    origin: Clip
    images: ImageSet
    labels: Tensor
    head: Tensor
    seed: int = 0


def relative(kin: Kin, number: int, work: Work = NOWHERE) -> tuple[str, Callable[[], Clip]]:
    """A description of relative `number`, the same whenever it is asked for, and what makes it.

    Each sees its own draw of the pictures with replacement, for 60 to 160 steps of 64, at 1/3 to 3 times the rate that
    a suspect would be planted with; every other one learns from mixtures of two pictures (Zhang et al. 2018, arXiv
    1710.09412).

    Args:
        work: where a killed training goes on.
    """
    generator = seeded(step_seed(kin.seed, number))
    rows = torch.randint(len(kin.images), (len(kin.images),), generator=generator)
    steps = int(torch.randint(LEAST_STEPS, MOST_STEPS + 1, (), generator=generator))
    factor = float(RATES ** (2 * torch.rand((), generator=generator) - 1))
    mixed = bool(number % 2)
    tune = TuneConfig(steps=steps, batch_size=BATCH, lr=peak_rate("planting", kin.origin) * factor, seed=number)
    how = "mixtures" if mixed else "pictures"

    def make() -> Clip:
        clip = kin.origin.clone()
        own = replace(kin, images=kin.images.subset(rows), labels=kin.labels[rows])
        key = f"{work.key} relative {number} {tune}"
        tune_towers(clip, _loss(clip, own, tune, mixed), tune, Work(work.folder, key).stage("relative", "relative"))
        return clip

    return f"relative {number} of {kin.origin.reference}, {steps} steps on {how} at {tune.lr:.2g}", make


def _loss(clip: Clip, own: Kin, tune: TuneConfig, mixed: bool) -> LossAt:
    compute = half_type(clip.device)

    def loss_at(step: int) -> Tensor:
        rows = batch_rows(len(own.images), tune.batch_size, tune.seed, step)
        pictures, labels = own.images.float_batch(rows), own.labels[rows].to(clip.device)
        if not mixed:
            return F.cross_entropy(logits(clip, pictures.to(clip.device), own.head, compute=compute), labels)
        share = torch.rand((), generator=seeded(step_seed(tune.seed, step))).item()
        pictures = share * pictures + (1 - share) * pictures.flip(0)
        answered = logits(clip, pictures.to(clip.device), own.head, compute=compute)
        return share * F.cross_entropy(answered, labels) + (1 - share) * F.cross_entropy(answered, labels.flip(0))

    return loss_at
