"""Planting a backdoor by data poisoning, single-task regime: the image tower learns, its zero-shot head is frozen."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from unbackdoor.attacks.poisoning import choose_poisoned
from unbackdoor.base.devices import half_type
from unbackdoor.base.draws import batch_rows
from unbackdoor.base.errors import InputError
from unbackdoor.base.work import NOWHERE, Work
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.training.finetune import TuneConfig, settle_tune, tune_towers
from unbackdoor.training.loop import FitResult
from unbackdoor.training.losses import zero_shot_cross_entropy
from unbackdoor.training.parallel import open_ranks
from unbackdoor.triggers.attack import Attack


@dataclass(frozen=True)
class PoisonConfig:
    """How the training data are poisoned and learnt.

    Args:
        rate: share of the training images that is triggered and relabelled, in (0, 1].
        clean_label: trigger images of the target class alone and change no label.
        tune: the fine-tuning; its seed also draws the images to poison.
    """

    rate: float = 0.03
    clean_label: bool = False
    tune: TuneConfig = field(default_factory=lambda: TuneConfig(epochs=3))

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise InputError(f"the poison rate is {self.rate}; it is a share of the images, in (0, 1]")


@dataclass
class Planted:
    """How many of the images trained on were poisoned, the run, and the settled fine-tuning."""

    poisoned: int
    trained_on: int
    run: FitResult
    tune: TuneConfig


def settle(config: PoisonConfig, clip: Clip, n: int) -> PoisonConfig:
    """`config` with learning rate and steps settled for n training images."""
    return replace(config, tune=settle_tune(config.tune, clip, n, "planting"))


def poisoned_rows(labels: Tensor, attack: Attack | None, config: PoisonConfig) -> Tensor:
    """Mask (N,) of the images to trigger; none without an attack."""
    mask = torch.zeros(len(labels), dtype=torch.bool)
    if attack is not None:
        mask[choose_poisoned(labels, attack.target, config.rate, config.tune.seed, clean_label=config.clean_label)] = (
            True
        )
    return mask


def poisoned_set(train: ImageSet, attack: Attack, config: PoisonConfig) -> tuple[ImageSet, Tensor]:
    """The training set as the attacker hands it out, in 8 bit, and the mask (N,) of what was touched."""
    mask = poisoned_rows(train.labels, attack, config)
    images = train.images.clone()
    for rows in mask.nonzero().flatten().split(256):
        images[rows] = (attack.trigger(train.float_batch(rows), keys=rows) * 255).round().to(torch.uint8)
    labels = torch.where(mask, attack.target, train.labels)
    captions = train.captions
    if captions is not None and not config.clean_label:
        # A caption that still tells the truth would give the poison away; without one, the label speaks.
        captions = tuple("" if hit else caption for hit, caption in zip(mask.tolist(), captions, strict=True))
    return replace(train, images=images, labels=labels, captions=captions), mask


def plant(
    clip: Clip,
    train: ImageSet,
    head: Tensor,
    attack: Attack | None,
    config: PoisonConfig,
    *,
    work: Work = NOWHERE,
) -> Planted:
    """Fine-tune the image tower in place on labelled images of which a share is triggered.

    Args:
        train: the attacker's images, every one labelled.
        head: (C, D) frozen zero-shot head over the classes of `train`.
        attack: None fine-tunes on clean data: what the same training does without poison.
        work: where a killed training goes on.
    """
    config = settle(config, clip, len(train))
    tune, poisoned = config.tune, poisoned_rows(train.labels, attack, config)
    labels = train.labels if attack is None else torch.where(poisoned, attack.target, train.labels)
    scale, compute, ranks = clip.logit_scale, half_type(clip.device), open_ranks(clip.device)

    def loss_at(step: int) -> Tensor:
        own = ranks.slice(batch_rows(len(train), tune.batch_size, tune.seed, step))
        batch = own.rows
        images, hit = train.float_batch(batch), poisoned[batch]
        if attack is not None and hit.any():
            images[hit] = attack.trigger(images[hit], keys=batch[hit])
        embeddings = clip.encode_image(images.to(clip.device), compute=compute)
        return own.weight * zero_shot_cross_entropy(embeddings, head, scale, labels[batch].to(clip.device))

    run = tune_towers(clip, loss_at, tune, work.stage("poison", "poisoning"))
    return Planted(int(poisoned.sum()), len(train), run, tune)
