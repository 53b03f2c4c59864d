"""TBAR: backdoor unlearning by linear task decomposition (arXiv 2510.14845), known trigger.

1. Fine-tune the suspect θ briefly on triggered images towards the target → θ'.
2. The trigger vector is τ = θ' − θ.
3. The cured model is θ − α·τ, with α chosen on held-out images.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.defenses.alpha import AlphaConfig, AlphaSearch, search_alpha
from unbackdoor.errors import InputError
from unbackdoor.evaluation import Task, evaluate_images
from unbackdoor.metrics.backdoor import BackdoorRates
from unbackdoor.metrics.rates import Rate
from unbackdoor.training.batches import batch_rows, steps_per_epoch
from unbackdoor.training.finetune import TuneConfig, tune_image_tower
from unbackdoor.training.losses import distillation, zero_shot_cross_entropy
from unbackdoor.triggers.base import Trigger
from unbackdoor.weights.vector import Vector, Walk, difference, snapshot


@dataclass(frozen=True)
class VectorConfig:
    """How the trigger vector is taken.

    Args:
        samples: triggered images in the forget set.
        tune: the brief fine-tuning.
        anchor: weight of self-distillation on the untriggered views of the same images, which keeps "always answer
            the target" out of the vector; 0 is the published method.
    """

    samples: int = 256
    tune: TuneConfig = field(default_factory=lambda: TuneConfig(epochs=6, batch_size=64, lr=1e-5))
    anchor: float = 0.0


@dataclass
class TakenVector:
    """A trigger vector and how it was taken."""

    vector: Vector
    samples: int
    steps: int
    seconds: float
    losses: list[float]


@dataclass(frozen=True)
class Known:
    """What the defender knows: the images, the trigger and the target, and the model's zero-shot head."""

    forget: ImageSet
    trigger: Trigger
    target: int
    head: Tensor


def trigger_vector(
    clip: Clip, known: Known, config: VectorConfig, *, checkpoint: Path | None = None, run_key: str = ""
) -> TakenVector:
    """τ = θ_triggered − θ_suspect over the image tower; `clip` is left at the suspect's weights.

    Args:
        known: `forget` holds the images to be triggered; images of the target class teach nothing about the trigger
            and are left out where labels tell.
        checkpoint: file to resume from after a kill.

    Raises:
        InputError: no image is left to trigger.
    """
    usable = torch.nonzero(known.forget.labels != known.target).flatten()[: config.samples]
    if not len(usable):
        raise InputError("no image outside the target class is left to take the trigger vector from; give more images")
    rows = known.forget.subset(usable)
    device = next(iter(clip.image_parameters().values())).device
    head, target = known.head, known.target
    scale = clip.logit_scale
    tune = config.tune
    steps = tune.steps or tune.epochs * steps_per_epoch(len(rows), tune.batch_size)
    start = snapshot(clip.image_parameters())
    views = torch.cat([_embed(clip, rows, part) for part in torch.arange(len(rows)).split(128)])

    def loss_at(step: int) -> Tensor:
        batch = batch_rows(len(rows), tune.batch_size, tune.seed, step)
        clean = rows.float_batch(batch).to(device)
        triggered = known.trigger(clean, keys=usable[batch])
        goal = torch.full((len(batch),), target, device=device)
        if not config.anchor:
            return zero_shot_cross_entropy(clip.encode_image(triggered), head, scale, goal)
        hit, same = clip.encode_image(torch.cat([triggered, clean])).split(len(batch))
        loss = zero_shot_cross_entropy(hit, head, scale, goal)
        return loss + config.anchor * distillation(same, views[batch], head, scale)

    try:
        run = tune_image_tower(
            clip, loss_at, tune, steps, checkpoint=checkpoint, run_key=run_key, label="trigger vector"
        )
        vector = difference(clip.image_parameters(), start)
    finally:
        with torch.no_grad():
            for name, p in clip.image_parameters().items():
                p.copy_(start[name])
    return TakenVector(vector, len(rows), steps, run.seconds, run.losses)


@torch.no_grad()
def _embed(clip: Clip, data: ImageSet, rows: Tensor) -> Tensor:
    device = next(iter(clip.image_parameters().values())).device
    return clip.encode_image(data.float_batch(rows).to(device))


def unlearn_(
    clip: Clip,
    vector: Vector,
    validation: ImageSet,
    task: Task,
    config: AlphaConfig,
    *,
    alpha: float | None = None,
    log: Path | None = None,
) -> AlphaSearch:
    """Move `clip` to θ − α·τ in place; α is searched on `validation` unless it is given.

    Args:
        task: head, trigger and target to measure on the validation images.
        log: JSONL of measured points; a killed search continues with the points it holds.
    """
    walk = Walk(clip.state(), vector)
    if alpha is not None:
        walk.settle(alpha)
        return AlphaSearch(alpha, True, None, [])
    known = _read_log(log)

    def measure(alpha: float, enough: Callable[[BackdoorRates], bool] | None) -> BackdoorRates:
        if alpha not in known:
            walk.to(alpha)
            known[alpha] = evaluate_images(clip, validation, task, enough=enough)
            _append_log(log, alpha, known[alpha])
        return known[alpha]

    found = search_alpha(measure, config)
    walk.settle(found.alpha)
    return found


def _read_log(log: Path | None) -> dict[float, BackdoorRates]:
    if log is None or not log.exists():
        return {}
    points: dict[float, BackdoorRates] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # the line being written when the run was killed
            continue
        points[row["alpha"]] = BackdoorRates(*(Rate(*row[name]) for name in ("ca", "asr", "triggered_accuracy")))
    return points


def _append_log(log: Path | None, alpha: float, rates: BackdoorRates) -> None:
    if log is None:
        return
    assert rates.asr is not None and rates.triggered_accuracy is not None
    counts = {"ca": rates.ca, "asr": rates.asr, "triggered_accuracy": rates.triggered_accuracy}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"alpha": alpha, **{k: (r.hits, r.n) for k, r in counts.items()}}) + "\n")
