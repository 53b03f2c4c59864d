"""One pass over decoded images: clean and triggered views through the same batch, counted together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unbackdoor.answers import Answers
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.metrics.backdoor import BackdoorMeter, BackdoorRates
from unbackdoor.metrics.rates import Rate
from unbackdoor.metrics.retrieval import RetrievalMeter
from unbackdoor.progress import Progress
from unbackdoor.triggers.base import Trigger

_BATCH, _BYTES = 128, 10_000_000


def batch_size(side: int, device: torch.device) -> int:
    """Images of `side` px to look at together.

    On a CPU no more than 10 MB of float32 pixels: what is larger is given back to the system after every use, and
    fetching it again costs ten times what a trigger does with it (docs/performance.md).
    """
    return _BATCH if device.type != "cpu" else max(8, min(_BATCH, _BYTES // (12 * side * side)))


@dataclass(frozen=True)
class Task:
    """What a model is asked: the zero-shot head over the classes, and optionally the attack to measure.

    Args:
        head: (C, D) unit rows, from `Clip.zero_shot_head`.
        trigger: applied to every image for ASR; None measures CA only.
        target: index of the attacker's class.
        counting: see `unbackdoor.metrics.backdoor`.
    """

    head: Tensor
    trigger: Trigger | None = None
    target: int | None = None
    counting: str = "standard"


def class_logits(clip: Clip, images: Tensor, head: Tensor) -> Tensor:
    """Zero-shot logits (B, C) of images (B, 3, H, W) in [0, 1]: scale · cosine + bias."""
    return clip.logit_scale * clip.encode_image(images) @ head.T + clip.logit_bias


def evaluate_images(
    clip: Clip,
    data: ImageSet,
    task: Task,
    *,
    order: Tensor | None = None,
    enough: Callable[[BackdoorRates], bool] | None = None,
    answers: Answers | None = None,
    label: str | None = None,
) -> BackdoorRates:
    """CA, ASR and triggered accuracy in one pass.

    Args:
        data: decoded images with labels.
        order: image indices to use, in order; all by default.
        enough: asked after every batch; True stops the pass early (the counts say how far it came).
        answers: who answers; by default in a half type where that is faster and changes no answer (`Answers`).
        label: name of the progress bar; None shows none.
    """
    meter = BackdoorMeter(task.target if task.trigger else None, task.counting)
    index = torch.arange(len(data)) if order is None else order
    views, size = 1 if task.trigger is None else 2, batch_size(clip.image_size, clip.device)
    answer = Answers.of(clip, task.head, views * len(index)) if answers is None else answers
    # One piece of memory for all batches: both views are made where the model reads them.
    room = torch.empty(views * size, *data.images.shape[1:], device=clip.device)
    with Progress(label or "", len(index), quiet=label is None) as bar:
        done = 0
        for rows in index.split(size):
            batch = room[: views * len(rows)]
            clean = data.float_batch(rows, out=batch[: len(rows)])
            if task.trigger is not None:
                task.trigger.in_place(batch[len(rows) :].copy_(clean), keys=rows)
            meter.update(data.labels[rows], *answer(batch).cpu().split(len(rows)))
            done += len(rows)
            bar.step(done)
            if enough is not None and done < len(index) and enough(meter.compute()):
                break
    return meter.compute()


@torch.inference_mode()
def evaluate_retrieval(clip: Clip, data: ImageSet, *, label: str | None = None) -> dict[str, dict[int, Rate]]:
    """R@1/5/10 both ways between images and their captions; images without a caption are candidates all the same.

    Args:
        data: decoded images with captions, "" where an image has none.
        label: name of the progress bar; None shows none.
    """
    assert data.captions is not None
    meter = RetrievalMeter()
    with Progress(label or "", len(data), quiet=label is None) as bar:
        for rows in torch.arange(len(data)).split(batch_size(clip.image_size, clip.device)):
            captions = [data.captions[i] for i in rows.tolist()]
            owner = torch.tensor([i for i, caption in enumerate(captions) if caption], dtype=torch.int64)
            images = clip.encode_image(data.float_batch(rows).to(clip.device))
            texts = clip.encode_text([captions[i] for i in owner]) if len(owner) else images[:0]
            meter.update(images, texts, owner)
            bar.step(int(rows[-1]) + 1)
    return meter.compute()
