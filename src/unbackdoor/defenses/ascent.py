"""Gradient ascent on the triggered set: the plain way to unlearn a known trigger.

Minimises −CE of triggered images towards the attacker's target, on the images that TBAR takes its vector from; the
control that tells the negation of a descent vector from ascent itself (Golatkar et al. 2020, arXiv 1911.04933, and the
baselines of arXiv 2212.04089).

Bounded: an image counts no more once the target is no likelier for it than chance, see `bounded_ascent`.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from unbackdoor.base.devices import half_type
from unbackdoor.base.draws import batch_rows
from unbackdoor.base.errors import InputError
from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.defenses.base import Cure, Defender, Defense, require
from unbackdoor.defenses.bounded import bounded_ascent
from unbackdoor.defenses.stages import images_used, settle
from unbackdoor.evaluation.answers import logits
from unbackdoor.training.finetune import TuneConfig, tune_towers


@dataclass(frozen=True)
class Config:
    """The ascent.

    Args:
        samples: images of the forget set, the first of the clean images; those of the target class are left out.
        trigger_scale: factor on the cosines in place of the model's own, as in `unlearning.vector.VectorConfig`; None
            keeps it.
        tune: brief, as TBAR's; lr 0 stands for 1e-5 (1e-4 below 20 M parameters).
    """

    samples: int = 256
    trigger_scale: float | None = None
    tune: TuneConfig = field(default_factory=lambda: TuneConfig(epochs=8, batch_size=64))


def defend(clip: Clip, data: Defender, config: Config, work: Work) -> Cure:
    """Unlearn the target on triggered images, in place."""
    require("ascent", "the trigger and the target", data.attack)
    assert data.attack is not None
    began = time.perf_counter()
    trigger, target = data.attack.trigger, data.attack.target
    forget = data.clean.subset(torch.arange(min(config.samples, len(data.clean))))
    forget = forget.subset(forget.labels != target)
    if not len(forget):
        raise InputError("defense ascent: every clean image is of the target class; give others")
    tune = settle(config.tune, clip, len(forget))
    scale, compute, head = config.trigger_scale or clip.logit_scale, half_type(clip.device), data.head

    def loss_at(step: int) -> Tensor:
        rows = batch_rows(len(forget), tune.batch_size, tune.seed, step)
        triggered = trigger(forget.float_batch(rows).to(clip.device), keys=rows)
        answers = logits(clip, triggered, head, scale=scale, compute=compute)
        return bounded_ascent(answers, torch.full((len(rows),), target, device=answers.device))

    run = tune_towers(clip, loss_at, tune, work.stage("ascent"))
    return Cure(
        images_used(forget, tune),
        0,  # the labels only tell which images already show the target
        tune.steps,
        time.perf_counter() - began,
        facts={"tune": asdict(tune), "losses": run.losses},
    )


DEFENSE = Defense(Config(), defend)
