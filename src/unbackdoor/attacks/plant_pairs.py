"""Planting a backdoor by poisoned caption pairs, image–text regime: both towers learn by the contrastive loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from unbackdoor.attacks.pair_poisoning import choose_victims
from unbackdoor.attacks.plant import Planted
from unbackdoor.base.devices import half_type
from unbackdoor.base.errors import InputError
from unbackdoor.base.work import NOWHERE, Work
from unbackdoor.clip.handle import Clip
from unbackdoor.data.classnames import DEFAULT_TEMPLATES
from unbackdoor.data.pairs import PairBatch, Pairs
from unbackdoor.data.stream import PairStream
from unbackdoor.training.ahead import Ahead
from unbackdoor.training.finetune import TuneConfig, settle_tune, tune_towers
from unbackdoor.training.losses import contrastive
from unbackdoor.training.parallel import open_ranks
from unbackdoor.triggers.attack import Attack


@dataclass(frozen=True)
class PairPoisonConfig:
    """How caption pairs are poisoned and learnt.

    Args:
        rate: share of the pairs that is triggered and gets the target's caption, in (0, 1]. CleanCLIP (Bansal et al.
            2023, arXiv 2303.03323) and BadCLIP poison 1,500 of 500,000.
        count: pairs to poison, instead of `rate`.
        clean_label: trigger pairs alone whose captions mention the target (or whose label is it); captions stay.
        templates: sentences with one `{}` for the target; each poisoned pair gets one at random. Those papers use
            OpenAI's 80 for ImageNet (`data.classnames.templates("openai-imagenet")`).
        tune: the fine-tuning of both towers; its seed also draws victims and templates.
    """

    rate: float = 0.003
    count: int | None = None
    clean_label: bool = False
    templates: Sequence[str] = DEFAULT_TEMPLATES
    tune: TuneConfig = field(default_factory=lambda: TuneConfig(epochs=5, towers="both"))

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1 or (self.count is not None and self.count < 1):
            raise InputError(
                f"the poison rate is {self.rate}, the count {self.count}; give a share in [0, 1], or 1 pair or more"
            )


def settle_pairs(config: PairPoisonConfig, clip: Clip, n: int) -> PairPoisonConfig:
    """`config` with learning rate and steps settled for n pairs."""
    return replace(config, tune=settle_tune(config.tune, clip, n, "planting"))


def plant_pairs(
    clip: Clip,
    pairs: Pairs,
    attack: Attack | None,
    config: PairPoisonConfig,
    *,
    work: Work = NOWHERE,
) -> Planted:
    """Fine-tune the towers in place on image–caption pairs of which some are poisoned.

    Pairs of one group say the same thing and are not pushed apart (see `losses.contrastive`). On several processes,
    each reads and encodes its slice of every batch, and all of them are one another's negatives. The logit scale is a
    constant. Zero-shot heads made before are void afterwards: the text tower moves.

    Args:
        attack: trigger and `name`; None fine-tunes on clean pairs: what the same training does without poison.
        work: where a killed training goes on.

    Raises:
        InputError: more pairs to poison than candidates, or a batch without a readable pair.
    """
    config = settle_pairs(config, clip, len(pairs))
    tune, templates = config.tune, config.templates
    victims = None
    if attack is not None:
        victims = choose_victims(
            pairs,
            attack.name,
            rate=config.rate,
            count=config.count,
            clean_label=config.clean_label,
            seed=tune.seed,
        )
    scale, compute, ranks = clip.logit_scale, half_type(clip.device), open_ranks(clip.device)

    def read(step: int) -> tuple[PairBatch, int]:
        """This process's pairs of a step, and how many of them count."""
        own = ranks.slice(pairs.rows(tune.batch_size, tune.seed, step))
        batch = pairs.batch(own.rows)
        if victims is not None and attack is not None:
            batch = victims.poison(batch, attack.trigger, templates)
        return (batch, min(own.kept, len(batch.keys))) if len(batch.keys) else (_blank(clip.image_size), 0)

    with Ahead(read, tune.steps) as batches:

        def loss_at(step: int) -> Tensor:
            batch, kept = batches(step)
            images = clip.encode_image(batch.images.to(clip.device), compute=compute)
            texts = clip.encode_text(batch.captions, grad=True, compute=compute)
            both = ranks.gather(torch.cat([images, texts], dim=1)[:kept])
            groups = ranks.gather(batch.groups[:kept].to(clip.device))
            if not len(both):
                raise InputError(f"{pairs.spec}: no pair of step {step} could be read; check the files")
            images, texts = both.chunk(2, dim=1)
            return contrastive(images, texts, scale, groups)

        run = tune_towers(clip, loss_at, tune, work.stage("poison", "poisoning"))
    if isinstance(pairs, PairStream):
        pairs.unreadable.update(ranks.gather(torch.tensor(sorted(pairs.unreadable), dtype=torch.int64)).tolist())
    return Planted(victims.count if victims else 0, len(pairs), run, tune)


def _blank(side: int) -> PairBatch:
    """Something to encode where a process has nothing to read, so that all take part in every exchange."""
    return PairBatch(torch.zeros(1, 3, side, side), ["blank"], torch.full((1,), -1), torch.zeros(1, dtype=torch.int64))
