"""A clean twin of a suspect: the suspect's origin, fine-tuned to answer clean pictures as the suspect does.

It learns the suspect's task and not its backdoor, as no picture bears a trigger. Where a change that pulls every
picture to a class is small in the twin too, the class is cheap by nature, and that says nothing against the suspect.

A twin has to know the task as well as the suspect does, from a thousand pictures: it learns the suspect's
probabilities (Hinton et al. 2015, arXiv 1503.02531) on mixtures of two pictures, new ones at every step (mixup, Zhang
et al. 2018, arXiv 1710.09412, with the suspect's own answer to the mixture for a label, as in Beyer et al. 2022, arXiv
2106.05237).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unbackdoor.base.devices import half_type
from unbackdoor.base.draws import batch_rows, seeded, step_seed
from unbackdoor.base.work import NOWHERE, Stage, Work
from unbackdoor.clip.handle import Clip
from unbackdoor.clip.streamline import streamlined
from unbackdoor.data.images import ImageSet
from unbackdoor.evaluation.answers import logits
from unbackdoor.training.finetune import TuneConfig, settle_lr, tune_towers

STEPS, BATCH = 200, 64


def twin_of(
    suspect: Clip,
    origin: Clip,
    images: ImageSet,
    head: Tensor,
    seed: int = 0,
    work: Work = NOWHERE,
) -> Clip:
    """The twin, streamlined: its image tower is tuned to the head.

    Args:
        origin: a clean model of the suspect's architecture, such as the public checkpoint that it was made from.
        images: clean pictures to learn on; labels are not read.
        head: (C, D) unit rows, the zero-shot head over the classes.
        work: where a killed training goes on.
    """
    copy = origin.clone().to(suspect.device)
    compute = half_type(copy.device)
    tune = settle_lr(TuneConfig(steps=STEPS, batch_size=BATCH, seed=seed), copy, "twin")

    def loss_at(step: int) -> Tensor:
        rows = batch_rows(len(images), tune.batch_size, tune.seed, step)
        pictures = mixup(images.float_batch(rows), step_seed(tune.seed, step)).to(copy.device)
        with torch.no_grad():
            wanted = logits(suspect, pictures, head, compute=compute).softmax(dim=-1)
        learnt = logits(copy, pictures, head, compute=compute).log_softmax(dim=-1)
        return F.kl_div(learnt, wanted, reduction="batchmean")

    # The run's key is part of the name: a twin of an earlier look at another model is left aside, not refused.
    tune_towers(copy, loss_at, tune, Stage("twin", work.file("twin.checkpoint"), work.key))
    return streamlined(copy)


def mixup(pictures: Tensor, seed: int) -> Tensor:
    """Each of B pictures mixed with another of them, its share drawn from [0, 1]; (B, 3, H, W)."""
    share = torch.rand(len(pictures), 1, 1, 1, generator=seeded(seed))
    return share * pictures + (1 - share) * pictures.flip(0)
