"""CleanCLIP (Bansal et al. 2023, arXiv 2303.03323): contrastive fine-tuning that also learns each modality by itself.

L = λ₁·L_CLIP + λ₂·½·[CE(s·I·I_augᵀ) + CE(s·T·T_augᵀ)]: an image must be told from the other images of its batch by an
augmented view of itself, and a text likewise, which pulls triggered images away from the target's text.

Deviations: warm-up is a tenth of the steps instead of 50; image views are of AutoAugment's strength and not its learnt
policies; text views have EDA's deletions, swaps and insertions, but no synonyms; equal captions of a batch count as one
another's positives, in-modal too; the logit scale stays fixed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from unbackdoor.base.devices import half_type
from unbackdoor.base.draws import step_seed
from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.data.pairs import PairBatch
from unbackdoor.defenses.base import Cure, Defender, Defense, trained
from unbackdoor.defenses.contrastive_steps import caption_groups, clean_pairs, encode_captions, train_on_pairs
from unbackdoor.defenses.stages import images_used, settle, step_generator
from unbackdoor.training.augment import strong_view, vary_captions
from unbackdoor.training.finetune import TuneConfig
from unbackdoor.training.losses import contrastive


@dataclass(frozen=True)
class Config:
    """CleanCLIP's fine-tuning.

    Args:
        inter_weight: λ₁, of CLIP's loss.
        in_weight: λ₂, of the in-modal loss; 0 leaves plain contrastive fine-tuning.
        tune: 10 epochs, batch 64, both towers; lr 0 stands for 1e-5 (1e-4 below 20 M parameters).
    """

    inter_weight: float = 1.0
    in_weight: float = 1.0
    tune: TuneConfig = field(default_factory=lambda: TuneConfig(epochs=10, batch_size=64, towers="both"))


def in_modal(rows: Tensor, views: Tensor, scale: float, groups: Tensor) -> Tensor:
    """Cross-entropy of unit rows (B, D) towards their own views; rows of one group share the target."""
    same = (groups[:, None] == groups[None]).to(rows)
    return F.cross_entropy(scale * rows @ views.T, same / same.sum(dim=1, keepdim=True))


def defend(clip: Clip, data: Defender, config: Config, work: Work) -> Cure:
    """Fine-tune `clip` in place on the clean pairs and on views of themselves."""
    began = time.perf_counter()
    pairs = clean_pairs("cleanclip", data)
    tune = settle(config.tune, clip, len(pairs))
    scale, compute, seed = clip.logit_scale, half_type(clip.device), tune.seed

    def loss_of(batch: PairBatch, step: int) -> Tensor:
        n, captions = len(batch.images), batch.captions
        views = strong_view(batch.images, step_generator(seed, step, clip.device))
        images, image_views = clip.encode_image(torch.cat([batch.images, views]), compute=compute).split(n)
        texts, text_views = encode_captions(clip, captions + vary_captions(captions, step_seed(seed, step))).split(n)
        alone = torch.arange(n, device=images.device)
        own = in_modal(images, image_views, scale, alone)
        own = own + in_modal(texts, text_views, scale, caption_groups(captions, images.device))
        return config.inter_weight * contrastive(images, texts, scale, batch.groups) + config.in_weight * own / 2

    run = train_on_pairs(clip, pairs, tune, loss_of, work, "cleanclip")
    used = images_used(pairs.images, tune)
    return trained(began, used, tune, run)


DEFENSE = Defense(Config(), defend)
