"""Supervised fine-tuning on clean labels: cross-entropy on the image tower with a new linear head.

CleanCLIP's second protocol (Bansal et al. 2023, arXiv 2303.03323); the result is a classifier of the labelled classes.
`head="zero-shot"` trains against the frozen zero-shot head instead, so that the model stays a zero-shot CLIP.

Deviations: the head has no bias, sees unit embeddings times the logit scale and starts from a linear probe, because
one learning rate for tower and head leaves a random head unlearnt after the few steps of a small set (`probe_steps=0`
starts it at random as CleanCLIP does).
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace

from torch import Tensor

from unbackdoor.base.devices import half_type
from unbackdoor.base.errors import InputError
from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.defenses.base import Cure, Defender, Defense
from unbackdoor.defenses.linear_head import LinearHead, train_head
from unbackdoor.defenses.stages import images_used, labeled, labeled_batch, settle
from unbackdoor.evaluation.answers import embed
from unbackdoor.training.finetune import TuneConfig, tune_towers
from unbackdoor.training.losses import zero_shot_cross_entropy
from unbackdoor.training.rates import peak_rate

HEADS = ("new", "zero-shot")


@dataclass(frozen=True)
class Config:
    """CleanCLIP's supervised fine-tuning.

    Args:
        head: `new` or `zero-shot`.
        probe_steps: steps of the linear probe that the new head starts from, at lr 1e-3.
        tune: 10 epochs, weight decay 0.01; lr 0 stands for 1e-4 at any size.
    """

    head: str = "new"
    probe_steps: int = 200
    tune: TuneConfig = field(default_factory=lambda: TuneConfig(epochs=10, batch_size=64, weight_decay=0.01))


def defend(clip: Clip, data: Defender, config: Config, work: Work) -> Cure:
    """Fine-tune `clip` in place on the clean labels."""
    if config.head not in HEADS:
        raise InputError(f"defense supervised: head {config.head!r} is none of {', '.join(HEADS)}")
    began = time.perf_counter()
    clean = labeled("supervised", data.clean)
    tune = settle(config.tune, clip, len(clean), "supervised")
    scale, compute = clip.logit_scale, half_type(clip.device)
    new = LinearHead(len(data.head), data.head.shape[1], scale, tune.seed, clip.device)
    probed = config.probe_steps if config.head == "new" else 0
    if probed:
        probe = replace(tune, steps=probed, lr=peak_rate("linear head", clip))
        train_head(new, embed(clip, clean), clean.labels, probe, work)

    def loss_at(step: int) -> Tensor:
        images, labels = labeled_batch(clean, tune, step, clip.device)
        embeddings = clip.encode_image(images, compute=compute)
        if config.head == "new":
            return new.loss(embeddings, labels)
        return zero_shot_cross_entropy(embeddings, data.head, scale, labels)

    stage, extra = work.stage("supervised", "supervised fine-tuning"), new if config.head == "new" else None
    run = tune_towers(clip, loss_at, tune, stage, extra=extra)
    used = max(images_used(clean, tune), min(len(clean), probed * tune.batch_size))
    return Cure(
        used,
        used,
        tune.steps + probed,
        time.perf_counter() - began,
        head=new.rows.detach() if config.head == "new" else None,
        facts={"head": config.head, "probe_steps": probed, "tune": asdict(tune), "losses": run.losses},
    )


DEFENSE = Defense(Config(), defend)
