"""Contrastive fine-tuning on clean pairs: CLIP's own loss, both towers.

The baseline of CleanCLIP (Bansal et al. 2023, arXiv 2303.03323), which finds that it leaves the backdoor where it is.

Deviations: warm-up is a tenth of the steps instead of 50; captions made from class names share the target with the
other captions of their class in the batch, which would be false negatives otherwise; the logit scale stays fixed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from torch import Tensor

from unbackdoor.base.devices import half_type
from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.data.pairs import PairBatch
from unbackdoor.defenses.base import Cure, Defender, Defense, trained
from unbackdoor.defenses.contrastive_steps import clean_pairs, encode_captions, train_on_pairs
from unbackdoor.defenses.stages import images_used, settle
from unbackdoor.training.finetune import TuneConfig
from unbackdoor.training.losses import contrastive


@dataclass(frozen=True)
class Config:
    """CleanCLIP's fine-tuning without its in-modal term.

    Args:
        tune: 10 epochs, batch 64, both towers; lr 0 stands for 1e-5 (1e-4 below 20 M parameters).
    """

    tune: TuneConfig = field(default_factory=lambda: TuneConfig(epochs=10, batch_size=64, towers="both"))


def defend(clip: Clip, data: Defender, config: Config, work: Work) -> Cure:
    """Fine-tune `clip` in place on the clean pairs."""
    began = time.perf_counter()
    pairs = clean_pairs("contrastive", data)
    tune = settle(config.tune, clip, len(pairs))
    scale, compute = clip.logit_scale, half_type(clip.device)

    def loss_of(batch: PairBatch, step: int) -> Tensor:
        images = clip.encode_image(batch.images, compute=compute)
        return contrastive(images, encode_captions(clip, batch.captions), scale, batch.groups)

    run = train_on_pairs(clip, pairs, tune, loss_of, work, "contrastive")
    used = images_used(pairs.images, tune)
    return trained(began, used, tune, run)


DEFENSE = Defense(Config(), defend)
