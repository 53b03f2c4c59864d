"""A clean twin of a suspect: the suspect's origin, fine-tuned to answer clean pictures as the suspect does.

It learns the suspect's task and not its backdoor, as no picture bears a trigger. Where a change that pulls every
picture to a class is small in the twin too, the class is cheap by nature, and that says nothing against the suspect.
"""

from __future__ import annotations

from unbackdoor.clip.handle import Clip
from unbackdoor.clip.streamline import streamlined
from unbackdoor.inversion.base import Subject
from unbackdoor.inversion.clones import answer_loss
from unbackdoor.training.finetune import LARGE_LR, TuneConfig, settle_lr, tune_towers

STEPS, BATCH = 90, 64
SMALL_LR = 1e-3


def twin_of(subject: Subject, origin: Clip) -> Clip:
    """The twin, streamlined: its image tower is tuned to the subject's head.

    Args:
        origin: a clean model of the suspect's architecture, such as the public checkpoint that it was made from.
    """
    copy = origin.clone()
    tune = settle_lr(TuneConfig(steps=STEPS, batch_size=BATCH, seed=subject.seed), copy, SMALL_LR, large=LARGE_LR)
    loss_at = answer_loss(copy, subject.images, subject.own, subject.head, tune)
    tune_towers(copy, loss_at, tune, STEPS, checkpoint=None, run_key="", label="twin")
    return streamlined(copy)
