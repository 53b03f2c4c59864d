"""How often a model is right and an attack works: clean and triggered views through the same batch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unbackdoor.base.disk import write_text
from unbackdoor.base.progress import Progress
from unbackdoor.base.untrusted import as_type, read_json
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.evaluation.answers import batch_size
from unbackdoor.evaluation.half import Answers
from unbackdoor.evaluation.task import Task
from unbackdoor.metrics.backdoor import BackdoorMeter, BackdoorRates, ClassCounts, add_classes
from unbackdoor.metrics.rates import Rate

KEPT_SECONDS = 60.0


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
    """What a file holds of a pass that goes on: images seen, hits and images of every rate, counts of every class."""

    done: int
    ca: tuple[int, int]
    asr: tuple[int, int] | None = None
    triggered_accuracy: tuple[int, int] | None = None
    by_class: tuple[tuple[int, int, int, int], ...] | None = None

    def __post_init__(self) -> None:
        if any(not 0 <= hits <= n for hits, n in filter(None, (self.ca, self.asr, self.triggered_accuracy))):
            raise ValueError("counts more hits than images")
        if any(not 0 <= hits <= n for n, *counts in self.by_class or () for hits in counts):
            raise ValueError("counts more hits of a class than images")

    @property
    def rates(self) -> BackdoorRates:
        pairs = (self.ca, self.asr, self.triggered_accuracy)
        ca, asr, back = (None if pair is None else Rate(*pair) for pair in pairs)
        assert ca is not None
        return BackdoorRates(ca, asr, back, by_class=tuple(ClassCounts(*row) for row in self.by_class or ()))


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
    if before is not None and before.by_class is None:
        before = None  # an older version's: its images are counted anew, class by class
    start, size = (before.done if before else 0), batch_size(clip.image_size, clip.device)
    clock, batches = time.monotonic(), 0

    def store(done: int, rates: BackdoorRates) -> BackdoorRates:
        whole = rates if before is None else _sum(before.rates, rates)
        counts = {"ca": whole.ca, "asr": whole.asr, "triggered_accuracy": whole.triggered_accuracy}
        figures = {name: None if rate is None else [rate.hits, rate.n] for name, rate in counts.items()}
        write_text(kept, json.dumps({"done": done, **figures, "by_class": whole.by_class}))
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
    back = both(one.triggered_accuracy, other.triggered_accuracy)
    return BackdoorRates(ca, both(one.asr, other.asr), back, by_class=tuple(add_classes(one.by_class, other.by_class)))
