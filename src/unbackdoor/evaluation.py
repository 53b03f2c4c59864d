"""One pass over decoded images: clean and triggered views through the same batch, counted together."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unbackdoor.answers import Answers
from unbackdoor.clip.handle import Clip
from unbackdoor.data.captions import sentences_of
from unbackdoor.data.images import ImageSet
from unbackdoor.disk import write_text
from unbackdoor.metrics.backdoor import BackdoorMeter, BackdoorRates
from unbackdoor.metrics.rates import Rate
from unbackdoor.metrics.retrieval import RetrievalMeter
from unbackdoor.progress import Progress
from unbackdoor.triggers.attack import Attack
from unbackdoor.untrusted import as_type, read_json

KEPT_SECONDS = 60.0
_BATCH, _BYTES = 128, 10_000_000


def batch_size(side: int, device: torch.device) -> int:
    """Images of `side` px to look at together.

    On a CPU no more than 10 MB of float32 pixels: what is larger is given back to the system after every use, and
    fetching it again costs ten times what a trigger does with it (docs/lab/performance.md).
    """
    return _BATCH if device.type != "cpu" else max(8, min(_BATCH, _BYTES // (12 * side * side)))


@dataclass(frozen=True)
class Task:
    """What a model is asked: the zero-shot head over the classes, and optionally the attack to measure.

    Args:
        head: (C, D) unit rows, from `Clip.zero_shot_head`.
        attack: its trigger is applied to every image for ASR; None measures CA only.
        counting: see `unbackdoor.metrics.backdoor`.
    """

    head: Tensor
    attack: Attack | None = None
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
    meter = BackdoorMeter(None if task.attack is None else task.attack.target, task.counting)
    index = torch.arange(len(data)) if order is None else order
    views, size = 1 if task.attack is None else 2, batch_size(clip.image_size, clip.device)
    answer = Answers.of(clip, task.head, views * len(index)) if answers is None else answers
    # One piece of memory for all batches: both views are made where the model reads them.
    room = torch.empty(views * size, *data.images.shape[1:], device=clip.device)
    with Progress(label or "", len(index), quiet=label is None) as bar:
        done = 0
        for rows in index.split(size):
            batch = room[: views * len(rows)]
            clean = data.float_batch(rows, out=batch[: len(rows)])
            if task.attack is not None:
                task.attack.trigger.in_place(batch[len(rows) :].copy_(clean), keys=rows)
            meter.update(data.labels[rows], *answer(batch).cpu().split(len(rows)))
            done += len(rows)
            bar.step(done)
            if enough is not None and done < len(index) and enough(meter.compute()):
                break
    return meter.compute()


@dataclass(frozen=True)
class _Counted:
    """What a file holds of a pass that goes on: images seen, hits and images of every rate."""

    done: int
    ca: tuple[int, int]
    asr: tuple[int, int] | None = None
    triggered_accuracy: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if any(not 0 <= hits <= n for hits, n in filter(None, (self.ca, self.asr, self.triggered_accuracy))):
            raise ValueError("counts more hits than images")

    @property
    def rates(self) -> BackdoorRates:
        pairs = (self.ca, self.asr, self.triggered_accuracy)
        return BackdoorRates(*(None if pair is None else Rate(*pair) for pair in pairs))  # type: ignore[arg-type]


def evaluate_kept(clip: Clip, data: ImageSet, task: Task, kept: Path | None, *, label: str | None) -> BackdoorRates:
    """`evaluate_images`, which goes on after a kill: what was counted is written every minute and at the end.

    Args:
        kept: file of this very model, data and task, named so by the caller; None keeps nothing.

    Raises:
        InputError: the file is damaged.
    """
    if kept is None:
        return evaluate_images(clip, data, task, label=label)
    before = as_type(read_json(kept), _Counted, str(kept)) if kept.exists() else None
    start, size = (before.done if before else 0), batch_size(clip.image_size, clip.device)
    clock, batches = time.monotonic(), 0

    def store(done: int, rates: BackdoorRates) -> BackdoorRates:
        whole = rates if before is None else _sum(before.rates, rates)
        counts = {"ca": whole.ca, "asr": whole.asr, "triggered_accuracy": whole.triggered_accuracy}
        told = {name: None if rate is None else [rate.hits, rate.n] for name, rate in counts.items()}
        write_text(kept, json.dumps({"done": done, **told}))
        return whole

    def keep(rates: BackdoorRates) -> bool:
        nonlocal clock, batches
        batches += 1
        if time.monotonic() - clock >= KEPT_SECONDS:
            store(start + batches * size, rates)
            clock = time.monotonic()
        return False

    if before is not None and start >= len(data):
        return before.rates
    order = torch.arange(start, len(data))
    return store(len(data), evaluate_images(clip, data, task, order=order, enough=keep, label=label))


def _sum(one: BackdoorRates, other: BackdoorRates) -> BackdoorRates:
    def both(a: Rate | None, b: Rate | None) -> Rate | None:
        return None if a is None or b is None else Rate(a.hits + b.hits, a.n + b.n)

    ca = both(one.ca, other.ca)
    assert ca is not None
    return BackdoorRates(ca, both(one.asr, other.asr), both(one.triggered_accuracy, other.triggered_accuracy))


@torch.inference_mode()
def evaluate_retrieval(clip: Clip, data: ImageSet, *, label: str | None = None) -> dict[str, dict[int, Rate]]:
    """R@1/5/10 both ways between images and their captions; images without a caption are candidates all the same.

    Several captions of an image count as in the field (COCO, Flickr30k): any of them is a hit for the image, and each
    is a query of its own for the way from text to image.

    Args:
        data: decoded images with captions, "" where an image has none.
        label: name of the progress bar; None shows none.
    """
    assert data.captions is not None
    meter = RetrievalMeter()
    with Progress(label or "", len(data), quiet=label is None) as bar:
        for rows in torch.arange(len(data)).split(batch_size(clip.image_size, clip.device)):
            captions = [sentences_of(data.captions[i]) for i in rows.tolist()]
            owner = torch.tensor([i for i, own in enumerate(captions) for _ in own], dtype=torch.int64)
            images = clip.encode_image(data.float_batch(rows).to(clip.device))
            sentences = [sentence for own in captions for sentence in own]
            parts = [clip.encode_text(sentences[at : at + _BATCH]) for at in range(0, len(sentences), _BATCH)]
            texts = torch.cat(parts) if parts else images[:0]
            meter.update(images, texts, owner)
            bar.step(int(rows[-1]) + 1)
    return meter.compute()
