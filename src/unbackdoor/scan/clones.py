"""Clean models to calibrate on, when there is only one: copies of it, each fine-tuned a little and differently."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from unbackdoor.base.draws import batch_rows, seeded
from unbackdoor.base.work import NOWHERE, Work
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.evaluation.answers import answers
from unbackdoor.training.finetune import LossAt, TuneConfig, tune_towers
from unbackdoor.training.losses import zero_shot_cross_entropy
from unbackdoor.training.rates import peak_rate
from unbackdoor.weights.files import state_hash


def clones(
    clip: Clip, images: ImageSet, head: Tensor, count: int, seed: int = 0, work: Work = NOWHERE
) -> Iterator[tuple[str, Callable[[], Clip]]]:
    """Descriptions of `count` fine-tuned copies, and what makes each; labels are used, else the model's answers.

    Each copy sees its own draw of the pictures with replacement, for 50 to 200 steps of 64, at 1/3 to 3 times the usual
    rate, so that the null spans how much harmless fine-tuning moves the statistics.

    Args:
        work: where the copy that is being made goes on after a kill; the caller removes it.
    """
    own, _ = answers(clip, images, head)
    labels = torch.where(images.labels >= 0, images.labels, own)
    for i in range(count):
        generator = seeded(seed * 1009 + i)
        drawn = torch.randint(len(images), (len(images),), generator=generator)
        steps = int(torch.randint(50, 201, (), generator=generator))
        factor = float(3.0 ** (2 * torch.rand((), generator=generator) - 1))
        copy = clip.clone()
        tune = TuneConfig(steps=steps, batch_size=64, lr=peak_rate("clone", copy) * factor, seed=i)
        loss_at = _loss(copy, images.subset(drawn), labels[drawn], head, tune)

        def make(copy: Clip = copy, loss_at: LossAt = loss_at, tune: TuneConfig = tune, i: int = i) -> Clip:
            key = f"clone {i} of {state_hash(clip.state())}, {tune}"
            tune_towers(copy, loss_at, tune, replace(work, key=key).stage("clone", f"clone {i + 1}"))
            return copy

        yield f"clone {i} of {clip.reference}, {steps} steps at {tune.lr:.2g}", make


def _loss(copy: Clip, rows: ImageSet, labels: Tensor, head: Tensor, tune: TuneConfig) -> LossAt:
    def loss_at(step: int) -> Tensor:
        batch = batch_rows(len(rows), tune.batch_size, tune.seed, step)
        embeddings = copy.encode_image(rows.float_batch(batch).to(copy.device))
        return zero_shot_cross_entropy(embeddings, head, copy.logit_scale, labels[batch].to(copy.device))

    return loss_at
