"""RoCLIP (Yang et al. 2023, arXiv 2303.06854): break the pairs that poison relies on by matching with a caption pool.

In every `every`-th epoch an image is trained towards the text of a random pool that lies nearest to its caption,
instead of the caption itself; the other epochs are CLIP's. Images and captions are augmented throughout.

Adaptation: RoCLIP is a way to pre-train on poisoned data; here it fine-tunes the suspect on clean pairs, as in PAR's
tables. The pool is drawn from the captions of the clean pairs at the start of each matched epoch, encoded by the model
as it then is, and held fixed through that epoch instead of being refilled first in, first out. Pairs that meet the same
pool text share the target. Where captions are made from class names and templates are few, the nearest text is the
caption itself or a sister of its class, and matching changes little: no more can be done with so few sentences.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from unbackdoor.base.devices import half_type
from unbackdoor.base.draws import permutation, step_seed, steps_per_epoch
from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.data.pairs import PairBatch
from unbackdoor.defenses.base import Cure, Defender, Defense, trained
from unbackdoor.defenses.contrastive_steps import clean_pairs, encode_captions, train_on_pairs
from unbackdoor.defenses.stages import images_used, settle, step_generator
from unbackdoor.training.augment import simclr_view, vary_captions
from unbackdoor.training.finetune import TuneConfig
from unbackdoor.training.losses import contrastive


@dataclass(frozen=True)
class Config:
    """RoCLIP as fine-tuning.

    Args:
        pool: texts in the pool, at most; no more than half of the captions, so that it varies.
        every: each so-many-th epoch is matched, the first of them included; 0 matches none.
        tune: 10 epochs in place of 24 of pre-training, batch 64 in place of 512, both towers; lr 0 stands for 1e-5
            (1e-4 below 20 M parameters).
    """

    pool: int = 21_845
    every: int = 2
    tune: TuneConfig = field(default_factory=lambda: TuneConfig(epochs=10, batch_size=64, towers="both"))


class Pool(nn.Module):
    """The texts of a matched epoch; a buffer, so that a resumed run has the pool it was killed with."""

    rows: Tensor

    def __init__(self, size: int, width: int, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(size, width, device=device))

    def nearest(self, texts: Tensor) -> Tensor:
        """Number (B,) of the pool text most similar to each of texts (B, D)."""
        return (texts @ self.rows.T).argmax(dim=1)


def defend(clip: Clip, data: Defender, config: Config, work: Work) -> Cure:
    """Fine-tune `clip` in place on the clean pairs, matched with a pool now and then."""
    began = time.perf_counter()
    pairs = clean_pairs("roclip", data)
    tune = settle(config.tune, clip, len(pairs))
    scale, compute, seed = clip.logit_scale, half_type(clip.device), tune.seed
    per_epoch = steps_per_epoch(len(pairs), tune.batch_size)
    pool = Pool(max(1, min(config.pool, len(pairs) // 2)), data.head.shape[1], clip.device)
    changed = total = 0

    def refill(epoch: int) -> None:
        order = permutation(len(pairs), step_seed(seed, epoch))
        captions = [pairs.caption(row) for row in order[: len(pool.rows)].tolist()]
        with torch.no_grad():
            pool.rows.copy_(encode_captions(clip, captions))

    def loss_of(batch: PairBatch, step: int) -> Tensor:
        nonlocal changed, total
        epoch, within = divmod(step, per_epoch)
        images = clip.encode_image(simclr_view(batch.images, step_generator(seed, step, clip.device)), compute=compute)
        captions = vary_captions(batch.captions, step_seed(seed, step))
        if not config.every or epoch % config.every:
            return contrastive(images, encode_captions(clip, captions), scale, batch.groups)
        if not within:
            refill(epoch)
        own = encode_captions(clip, captions)
        with torch.no_grad():
            places = pool.nearest(own)
            plain = encode_captions(clip, batch.captions)
            changed += int(((pool.rows[places] * plain).sum(dim=1) < 0.999).sum())
            total += len(own)
        # A gradient of zero for the text tower keeps its moments in step with the image tower's.
        return contrastive(images, pool.rows[places], scale, places) + 0 * own.sum()

    run = train_on_pairs(clip, pairs, tune, loss_of, work, "roclip", extra=pool)
    used = images_used(pairs.images, tune)
    matched = changed / total if total else None
    return trained(began, used, tune, run, pool=len(pool.rows), matched_with_another_text=matched)


DEFENSE = Defense(Config(), defend)
