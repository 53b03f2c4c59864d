"""PAR, Perturb and Recover (arXiv 2412.00727): push the embeddings away from the suspect's, recover by CLIP's loss.

L = L_CLIP − ½·(S_img·1[S_img ≤ τ] + S_txt·1[S_txt ≤ τ]), S being the batch mean of the squared distance between current
and the frozen suspect's unit embeddings. Once a tower is farther than τ only CLIP's loss moves it.

Deviations: batches of 64 instead of 4 × 512 and the loop's cosine after a short warm-up instead of a linear fall from
3e-5 to 3e-6; captions made from class names share the target within their class.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unbackdoor.base.devices import half_type
from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.data.pairs import PairBatch
from unbackdoor.defenses.base import Cure, Defender, Defense, trained
from unbackdoor.defenses.contrastive_steps import clean_pairs, encode_captions, train_on_pairs
from unbackdoor.defenses.stages import images_used, settle, step_generator
from unbackdoor.evaluation.answers import embed
from unbackdoor.training.augment import noise_and_erase
from unbackdoor.training.finetune import TuneConfig
from unbackdoor.training.losses import contrastive, squared_distance


@dataclass(frozen=True)
class Config:
    """PAR's fine-tuning.

    Args:
        tau: squared distance, in [0, 4], up to which the embeddings are pushed; 2 is orthogonal.
        push: whether to push at all; False leaves augmented contrastive fine-tuning.
        tune: 10 epochs, AdamW (0.9, 0.98), weight decay 1e-4, both towers; lr 0 stands for 3e-5 (1e-4 below 20 M
            parameters).
    """

    tau: float = 2.15
    push: bool = True
    tune: TuneConfig = field(
        default_factory=lambda: TuneConfig(
            epochs=10, batch_size=64, weight_decay=1e-4, betas=(0.9, 0.98), towers="both"
        )
    )


def pushed(distance: Tensor, tau: float) -> Tensor:
    """The distance where it still counts, 0 beyond τ."""
    return torch.where(distance <= tau, distance, torch.zeros_like(distance))


def defend(clip: Clip, data: Defender, config: Config, work: Work) -> Cure:
    """Perturb and recover `clip` in place on the clean pairs."""
    began = time.perf_counter()
    pairs = clean_pairs("par", data)
    tune = settle(config.tune, clip, len(pairs), "par")
    scale, compute, frozen = clip.logit_scale, half_type(clip.device), clip.clone()

    def loss_of(batch: PairBatch, step: int) -> Tensor:
        views = noise_and_erase(batch.images, step_generator(tune.seed, step, clip.device))
        images = clip.encode_image(views, compute=compute)
        texts = encode_captions(clip, batch.captions)
        loss = contrastive(images, texts, scale, batch.groups)
        if not config.push:
            return loss
        with torch.no_grad():
            places = frozen.encode_image(views, compute=compute), encode_captions(frozen, batch.captions)
        far = [squared_distance(now, then) for now, then in zip((images, texts), places, strict=True)]
        return loss - (pushed(far[0], config.tau) + pushed(far[1], config.tau)) / 2

    run = train_on_pairs(clip, pairs, tune, loss_of, work, "par")
    used = images_used(pairs.images, tune)
    some = pairs.images.subset(torch.arange(min(256, len(pairs))))
    moved = float(squared_distance(embed(clip, some), embed(frozen, some)))
    return trained(began, used, tune, run, moved=moved)


DEFENSE = Defense(Config(), defend)
