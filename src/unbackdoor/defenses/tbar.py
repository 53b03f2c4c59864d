"""TBAR: backdoor unlearning by linear task decomposition (arXiv 2510.14845), known trigger.

1. Fine-tune the suspect θ briefly on triggered images towards the target → θ'.
2. The trigger vector is τ = θ' − θ.
3. The cured model is θ − α·τ, with α chosen on held-out images.

`METHODS["tbar"]` takes τ as published; `METHODS["anchored"]`, the default, also holds clean embeddings in place.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.defenses.alpha import AlphaConfig, AlphaSearch, search_alpha
from unbackdoor.defenses.base import Cure, Defender, Work, require
from unbackdoor.devices import is_first_process
from unbackdoor.errors import InputError
from unbackdoor.evaluation import Task, evaluate_images
from unbackdoor.metrics.backdoor import BackdoorRates
from unbackdoor.metrics.rates import Rate
from unbackdoor.training.batches import batch_rows, step_seed
from unbackdoor.training.embedding import embed
from unbackdoor.training.finetune import LossAt, TuneConfig, settle_lr, settle_tune, tune_towers
from unbackdoor.training.losses import squared_distance, target_cross_entropy
from unbackdoor.triggers.base import Trigger
from unbackdoor.weights.vector import Vector, Walk, difference, snapshot

SMALL_LR = 1e-4  # rate of the brief fine-tuning for towers below 20 M parameters, chosen on the embedded model


@dataclass(frozen=True)
class VectorConfig:
    """How the trigger vector is taken; `METHODS` holds the two ways known by name.

    Args:
        samples: images of the forget set; all but those of the target class are triggered.
        tune: the brief fine-tuning.
        anchor: weight of the squared distance between the embeddings of the untriggered views and the suspect's own,
            which keeps "always answer the target" out of the vector; needs no labels. 0 is the published method.
        trigger_scale: factor on the cosines of triggered images in place of the model's own. A suspect that already
            answers the target with certainty has no gradient at its own scale, and Adam then follows rounding; None
            keeps the model's own, as published.
    """

    samples: int = 256
    tune: TuneConfig = field(default_factory=lambda: TuneConfig(epochs=8, batch_size=64))
    anchor: float = 30.0
    trigger_scale: float | None = 4.0


METHODS = {
    "anchored": VectorConfig(),
    "tbar": VectorConfig(anchor=0.0, trigger_scale=None),
}


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

    Anchored, every step sees a batch twice: triggered, to move towards the target, and untriggered, to stay where the
    suspect puts it. Half of the images are mirrored at random, which makes more anchors of the same images. Distances
    between embeddings, unlike those between answers, do not vanish where the suspect is certain and weigh both
    directions alike, so that θ − α·τ keeps clean embeddings as well as θ + τ does, to first order.

    Args:
        known: `forget` holds the images to be triggered; those of the target class, where labels tell, teach nothing
            about the trigger and serve as anchors only.
        checkpoint: file to resume from after a kill.

    Raises:
        InputError: no image is left to trigger.
    """
    rows = known.forget.subset(torch.arange(min(config.samples, len(known.forget))))
    hit = rows.labels != known.target
    if not config.anchor:
        rows, hit = rows.subset(hit), hit[hit]
    if not bool(hit.any()):
        raise InputError("no image outside the target class is left to take the trigger vector from; give more images")
    tune = settle_tune(config.tune, clip, len(rows), SMALL_LR)
    start = snapshot(clip.image_parameters())
    loss_at = (
        _anchored_loss(clip, rows, hit, known, config) if config.anchor else _plain_loss(clip, rows, known, config)
    )
    try:
        run = tune_towers(
            clip, loss_at, tune, tune.steps, checkpoint=checkpoint, run_key=run_key, label="trigger vector"
        )
        vector = difference(clip.image_parameters(), start)
    finally:
        with torch.no_grad():
            for name, p in clip.image_parameters().items():
                p.copy_(start[name])
    return TakenVector(vector, int(hit.sum()), tune.steps, run.seconds, run.losses)


def _plain_loss(clip: Clip, rows: ImageSet, known: Known, config: VectorConfig) -> LossAt:
    scale = config.trigger_scale or clip.logit_scale

    def loss_at(step: int) -> Tensor:
        batch = batch_rows(len(rows), config.tune.batch_size, config.tune.seed, step)
        triggered = known.trigger(rows.float_batch(batch).to(clip.device), keys=batch)
        return target_cross_entropy(clip.encode_image(triggered), known.head, scale, known.target)

    return loss_at


def _anchored_loss(clip: Clip, rows: ImageSet, hit: Tensor, known: Known, config: VectorConfig) -> LossAt:
    scale, seed = config.trigger_scale or clip.logit_scale, config.tune.seed
    places = torch.stack([embed(clip, rows, mirrored=mirrored) for mirrored in (False, True)])

    def loss_at(step: int) -> Tensor:
        batch = batch_rows(len(rows), config.tune.batch_size, seed, step)
        mirrored = torch.rand(len(batch), generator=torch.Generator().manual_seed(step_seed(seed, step))) < 0.5
        clean = rows.float_batch(batch)
        clean = torch.where(mirrored.view(-1, 1, 1, 1), clean.flip(-1), clean).to(clip.device)
        marked = hit[batch]
        triggered = known.trigger(clean[marked], keys=batch[marked])
        moved, kept = clip.encode_image(torch.cat([triggered, clean])).split([len(triggered), len(clean)])
        drift = squared_distance(kept, places[mirrored.long(), batch].to(clip.device))
        if not len(moved):
            return config.anchor * drift
        return target_cross_entropy(moved, known.head, scale, known.target) + config.anchor * drift

    return loss_at


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
        whole = alpha in known and known[alpha].ca.n == known[0.0].ca.n
        if alpha not in known or (enough is None and not whole):
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
    if log is None or not is_first_process():
        return
    assert rates.asr is not None and rates.triggered_accuracy is not None
    counts = {"ca": rates.ca, "asr": rates.asr, "triggered_accuracy": rates.triggered_accuracy}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"alpha": alpha, **{k: (r.hits, r.n) for k, r in counts.items()}}) + "\n")


@dataclass(frozen=True)
class Config(VectorConfig):
    """The vector's settings, and the choice of α.

    Args:
        alpha: number to subtract with; None searches.
        rule: the search's settings.
        validation: images for the search.
    """

    alpha: float | None = None
    rule: AlphaConfig = field(default_factory=AlphaConfig)
    validation: int = 512


def defend(clip: Clip, data: Defender, config: Config, work: Work) -> Cure:
    """Take the trigger vector on the first clean images, choose α on validation images, subtract.

    Labels of the forget set tell only which images already show the target; labels of the validation images measure CA.
    """
    require("tbar", "the trigger and the target", data.trigger)
    assert data.trigger is not None and data.target is not None
    began = time.perf_counter()
    known = Known(data.clean, data.trigger, data.target, data.head)
    taken = trigger_vector(clip, known, config, checkpoint=work.checkpoint("vector"), run_key=work.key)
    tuning = data.validation.subset(torch.arange(min(config.validation, len(data.validation))))
    task = Task(data.head, data.trigger, data.target)
    log = None if work.folder is None else work.folder / "alpha.jsonl"
    found = unlearn_(clip, taken.vector, tuning, task, config.rule, alpha=config.alpha, log=log)
    searched = len(tuning) if config.alpha is None else 0
    return Cure(
        images=min(config.samples, len(data.clean)) + searched,
        labels=searched,
        steps=taken.steps,
        seconds=time.perf_counter() - began,
        facts={
            "alpha": found.alpha,
            "satisfied": found.satisfied,
            "curve": [point.as_dict() for point in found.curve],
            "tune": asdict(settle_lr(config.tune, clip, SMALL_LR)),
        },
    )
