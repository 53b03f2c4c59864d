"""Linear probe: frozen towers, a new linear head trained on clean labels in place of the zero-shot head.

A defense in CleanCLIP's evaluation (Bansal et al. 2023, arXiv 2303.03323) and in RVPT's tables: the backdoor stays in
the features, but a head that was never poisoned may read it differently.

Deviations: the head has no bias and sees unit embeddings times the logit scale, so that it can stand in for a zero-shot
head; embeddings are computed once, without augmentation.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.defenses.base import Cure, Defender, Defense, trained
from unbackdoor.defenses.linear_head import LinearHead, train_head
from unbackdoor.defenses.stages import images_used, labeled, settle
from unbackdoor.evaluation.answers import embed
from unbackdoor.training.finetune import TuneConfig
from unbackdoor.training.rates import PEAKS


@dataclass(frozen=True)
class Config:
    """The probe.

    Args:
        tune: lr 1e-3 and weight decay 0.01 for 10 epochs of 50,000 labels in CleanCLIP; hundreds of labels make far
            fewer steps, so that 50 epochs stand here. The head is linear: the rate does not depend on the tower.
    """

    tune: TuneConfig = field(
        default_factory=lambda: TuneConfig(epochs=50, batch_size=64, lr=PEAKS["linear head"].small, weight_decay=0.01)
    )


def defend(clip: Clip, data: Defender, config: Config, work: Work) -> Cure:
    """Train a head on the clean labels; `clip` stays as it is."""
    began = time.perf_counter()
    clean = labeled("linear-probe", data.clean)
    tune = settle(config.tune, clip, len(clean))
    head = LinearHead(len(data.head), data.head.shape[1], clip.logit_scale, tune.seed, clip.device)
    run = train_head(head, embed(clip, clean), clean.labels, tune, work)
    used = images_used(clean, tune)
    return replace(trained(began, used, tune, run), head=head.rows.detach())


DEFENSE = Defense(Config(), defend)
