"""Taking the trigger vector of a known attack: a brief fine-tuning of the suspect, as a difference of weights.

Subtracted from the suspect, scaled by α, a trigger vector takes the backdoor out (`unlearning.known`). `METHODS` holds
the ways to take one: towards the target as published (TBAR, arXiv 2510.14845), the same with clean embeddings held in
place, and away from it: triggered images are led to where the suspect puts them untriggered, and the vector is that
step turned round; this also through factors of rank 8 alone, as a low-rank adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from unbackdoor.base.devices import half_type
from unbackdoor.base.draws import batch_rows, seeded, step_seed
from unbackdoor.base.errors import InputError
from unbackdoor.base.work import NOWHERE, Work
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.data.views import Views, draw_views
from unbackdoor.evaluation import Task
from unbackdoor.evaluation.answers import answers
from unbackdoor.runs.settings import LATER
from unbackdoor.training.finetune import LossAt, TuneConfig, learning, settle_lr, settle_steps, tune_towers
from unbackdoor.training.guard import Guard, guarded, learn_guard
from unbackdoor.training.losses import squared_distance, target_cross_entropy
from unbackdoor.training.low_rank import low_rank
from unbackdoor.training.stride import Soften, stride
from unbackdoor.triggers.attack import Attack
from unbackdoor.weights.vector import Vector, difference, restore, snapshot

# Chosen on suspects of several towers that no reported figure rests on (docs/lab/steps.md).
SHARE, LOW_RANK_SHARE = 0.15, 0.1
_GUARD_BATCH, _GUARD_DRAWS, _GUARD_EVERY = 32, 4, 2  # every step softened gave no less drift of clean embeddings


@dataclass(frozen=True)
class VectorConfig:
    """How the trigger vector is taken; `METHODS` holds the ways known by name.

    Args:
        samples: images of the forget set; all but those of the target class are triggered.
        tune: the brief fine-tuning. Its learning rate 0 stands for one by the size of the tower towards the `target`,
            and for `share` towards `clean`. With a `rank` it counts in units of each matrix's root mean square.
        share: the rate where `tune` has none: with a `rank` as it is, else of the longest step that the loss bears,
            which is measured (`training.stride`); None is `LOW_RANK_SHARE` or `SHARE`.
        toward: where triggered images are led, to the `target` as the attacker wants it, or to the `clean` image's own
            embedding in the suspect, which teaches the opposite: the vector is then the step turned round.
        anchor: weight of the squared distance between the embeddings of the untriggered images and the suspect's own,
            which keeps what clean images share with triggered ones out of the vector; needs no labels. 0 is the
            published method.
        views: of every image (`data.views`), half of them drawn at random; 1 is the image alone, 2 its mirror image.
        guard: `training.guard`'s strength, 0 for none.
        push: towards `clean` alone, weight of −log(1 − p(target)) on triggered images. Led back without it, images near
            the target's border are as near to it as before, and some answer the target, as clean ones do by mistake.
        trigger_scale: towards the `target` alone, factor on the cosines of triggered images in place of the model's
            own. A suspect that already answers the target with certainty has no gradient at its own scale, and Adam
            then follows rounding; None keeps the model's own, as published.
        rank: train every matrix through factors of this rank (`training.low_rank`) and nothing else, so that the vector
            is a low-rank adapter; 0 trains the whole tower.
        validation: images with labels for choosing α; 0 uses views of the forget set, as the suspect answers them.
        least: without images for choosing, no α below this is tried.
    """

    samples: int = 64
    tune: TuneConfig = field(default_factory=lambda: TuneConfig(steps=64, batch_size=32, weight_decay=0.0))
    share: float | None = field(default=None, metadata=LATER)
    toward: str = "clean"
    anchor: float = 30.0
    views: int = 8
    guard: float = 0.3
    push: float = 0.3
    trigger_scale: float | None = None
    rank: int = 0
    validation: int = 0
    least: float = 0.5

    @property
    def rate(self) -> float:
        """`share`, or the one of its kind."""
        return self.share or (LOW_RANK_SHARE if self.rank else SHARE)

    def __post_init__(self) -> None:
        if self.toward not in ("clean", "target"):
            raise InputError(f"toward is {self.toward!r}; it is clean or target")


_TARGET = VectorConfig(
    samples=256,
    tune=TuneConfig(epochs=8, batch_size=64),
    toward="target",
    anchor=30.0,
    views=2,
    guard=0.0,
    push=0.0,
    trigger_scale=4.0,
    validation=512,
    least=0.0,
)

METHODS = {
    "lora": VectorConfig(rank=8, share=LOW_RANK_SHARE),
    "distilled": VectorConfig(share=SHARE),
    "anchored": _TARGET,
    "tbar": replace(_TARGET, anchor=0.0, views=1, trigger_scale=None),
}


@dataclass
class TakenVector:
    """A trigger vector and how it was taken; `lr` is the peak rate."""

    vector: Vector
    samples: int
    steps: int
    seconds: float
    losses: list[float]
    lr: float = 0.0


def settled(config: VectorConfig, clip: Clip, lr: float | None = None) -> VectorConfig:
    """`config` with its learning rate settled: `lr`, or its own.

    Where there is neither, it goes by the size of the tower towards the target. On the way back to clean images, and
    with a rank, it stays 0: it follows from `share` when the vector is taken.
    """
    if lr is None and (config.toward == "clean" or config.rank):
        return config
    return replace(config, tune=settle_lr(config.tune, clip, "vector", lr))


def attack_of(task: Task) -> Attack:
    """The attack that a vector is taken from.

    Raises:
        InputError: the task has none.
    """
    if task.attack is None:
        raise InputError("a trigger vector needs the trigger and the target")
    return task.attack


def as_answered(clip: Clip, images: ImageSet, head: Tensor) -> ImageSet:
    """The images with the model's own answers for labels."""
    return replace(images, labels=answers(clip, images, head)[0])


def trigger_vector(
    clip: Clip, forget: ImageSet, task: Task, config: VectorConfig, *, work: Work = NOWHERE
) -> TakenVector:
    """τ, to be subtracted, over the image tower; `clip` is left at the suspect's weights.

    Towards the target, τ = θ_triggered − θ_suspect; towards the clean images, τ = θ_suspect − θ_mended. Anchored, every
    step sees a batch twice, triggered and untriggered, in views drawn anew. Distances between embeddings, unlike those
    between answers, do not vanish where the suspect is certain and weigh both directions alike, so that θ − α·τ keeps
    clean embeddings as well as θ + τ does, to first order.

    Args:
        forget: images to be triggered; those of the target class teach nothing about the trigger and are not led
            anywhere. Labels tell which these are, or, towards the clean images, the suspect's own answers.
        task: the suspect's zero-shot head, and the attack.
        work: where a killed training goes on.

    Raises:
        InputError: no image is left to trigger.
    """
    attack = attack_of(task)
    rows = forget.subset(torch.arange(min(config.samples, len(forget))))
    if config.toward == "clean":
        rows = as_answered(clip, rows, task.head)
    hit = rows.labels != attack.target
    if not config.anchor:
        rows, hit = rows.subset(hit), hit[hit]
    if not bool(hit.any()):
        by = " (by the suspect's own answers)" if config.toward == "clean" else ""
        raise InputError(
            f"no image outside the target class{by} is left to take the trigger vector from; give more images"
        )
    config = settled(config, clip)
    tune = settle_steps(config.tune, len(rows))
    weights = clip.image_parameters()
    start = snapshot(weights)
    loss_at, on_step, guard = loss_of(clip, rows, hit, task, config), None, vector_guard(clip, rows, config)
    train = partial(tune_towers, clip, stage=work.stage("vector", "trigger vector"))
    if config.rank:
        tune = tune if tune.lr else replace(tune, lr=config.rate)
        with low_rank(clip, config.rank, guard=guard, seed=tune.seed) as factors:
            run = train(loss_at, tune, only=factors.parameters())
            moved = factors.change()
    else:
        tune = _paced(clip, loss_at, tune, config, weights, guard)
        if guard is not None:
            loss_at, on_step = _guarded(guard, clip, tune.steps, loss_at)
        try:
            run = train(loss_at, tune, on_step=on_step)
            moved = difference(weights, start)
        finally:
            restore(weights, start)
    vector = moved if config.toward == "target" else {name: -t for name, t in moved.items()}
    return TakenVector(vector, int(hit.sum()), tune.steps, run.seconds, run.losses, tune.lr)


def _paced(
    clip: Clip,
    loss_at: LossAt,
    tune: TuneConfig,
    config: VectorConfig,
    weights: Mapping[str, nn.Parameter],
    guard: Guard | None,
) -> TuneConfig:
    """`tune` with a learning rate, measured where it has none."""
    if tune.lr:
        return tune
    names = list(weights)
    soften: Soften | None = None if guard is None else lambda number, step: guard.soften(names[number], step)
    with learning(clip, weights.values()):
        return replace(tune, lr=config.rate * stride(loss_at, list(weights.values()), soften))


def loss_of(clip: Clip, rows: ImageSet, hit: Tensor, task: Task, config: VectorConfig) -> LossAt:
    tune, compute = config.tune, _compute(clip, config)
    views = draw_views(len(rows), config.views, tune.seed)
    places = _places(clip, rows, views, compute) if config.anchor or config.toward == "clean" else None
    lead = _to_target(clip, task, config) if config.toward == "target" else _to_clean(clip, task, config)

    def loss_at(step: int) -> Tensor:
        batch = batch_rows(len(rows), tune.batch_size, tune.seed, step)
        drawn = seeded(step_seed(tune.seed, step))
        which = (config.views * (1 - torch.rand(len(batch), generator=drawn))).long().clamp(max=config.views - 1)
        clean = views.see(rows.float_batch(batch), batch, which).to(clip.device)
        triggered = attack_of(task).trigger(clean, keys=batch)
        marked = hit[batch]
        if places is None:
            return lead(clip.encode_image(triggered[marked], compute=compute), None, marked[marked])
        own = places[which, batch].to(clip.device)
        # What already is of the target class teaches nothing about the way there. On the way back half of the clean
        # images hold as well as all of them, for three quarters of the time.
        marks = marked if config.toward == "target" else torch.ones_like(marked)
        anchors = len(clean) if config.toward == "target" else -(-len(clean) // 2)
        both = torch.cat([triggered[marks], clean[:anchors]])
        moved, kept = clip.encode_image(both, compute=compute).split([int(marks.sum()), anchors])
        return lead(moved, own[marks], marked[marks]) + config.anchor * squared_distance(kept, own[:anchors])

    return loss_at


def _compute(clip: Clip, config: VectorConfig) -> torch.dtype | None:
    """The way back starts far from its end and bears a half type; the one to the target starts at its end (float32)."""
    return half_type(clip.device) if config.toward == "clean" else None


def _to_target(clip: Clip, task: Task, config: VectorConfig) -> Callable[[Tensor, Tensor | None, Tensor], Tensor]:
    scale = config.trigger_scale or clip.logit_scale

    def lead(moved: Tensor, _own: Tensor | None, _marked: Tensor) -> Tensor:
        return target_cross_entropy(moved, task.head, scale, attack_of(task).target) if len(moved) else moved.sum()

    return lead


def _to_clean(clip: Clip, task: Task, config: VectorConfig) -> Callable[[Tensor, Tensor | None, Tensor], Tensor]:
    def lead(moved: Tensor, own: Tensor | None, marked: Tensor) -> Tensor:
        assert own is not None
        loss = squared_distance(moved[marked], own[marked]) if bool(marked.any()) else moved.sum() * 0
        if config.push:
            shares = torch.softmax(clip.logit_scale * moved @ task.head.T, dim=1)[:, attack_of(task).target]
            # Where the model is certain of the target, the logarithm ends at about −14.
            loss = loss - config.push * torch.log1p(-shares.clamp(max=1 - 1e-6)).mean()
        return loss

    return lead


@torch.no_grad()
def _places(clip: Clip, rows: ImageSet, views: Views, compute: torch.dtype | None) -> Tensor:
    """The suspect's own embeddings (V, N, D) of every view of every image."""
    places = []
    for number in range(len(views)):
        parts = torch.arange(len(rows)).split(128)
        which = [torch.full((len(part),), number) for part in parts]
        batches = (views.see(rows.float_batch(p), p, w) for p, w in zip(parts, which, strict=True))
        places.append(torch.cat([clip.encode_image(images.to(clip.device), compute=compute) for images in batches]))
    return torch.stack(places)


def vector_guard(clip: Clip, rows: ImageSet, config: VectorConfig) -> Guard | None:
    if not config.guard:
        return None
    views = draw_views(len(rows), _GUARD_DRAWS, config.tune.seed)
    order = seeded(config.tune.seed)
    batches = [
        views.see(rows.float_batch(part), part, torch.full((len(part),), number))
        for number in range(_GUARD_DRAWS)
        for part in torch.randperm(len(rows), generator=order).split(_GUARD_BATCH)
    ]
    return learn_guard(clip, batches, config.guard, seed=config.tune.seed, compute=_compute(clip, config))


def _guarded(guard: Guard, clip: Clip, steps: int, loss_at: LossAt) -> tuple[LossAt, Callable[[int, float], None]]:
    """The loss, and what is to be called after each step, so that every step is softened by the guard."""
    before, after = guarded(guard, clip.image_parameters(), steps, _GUARD_EVERY)

    def loss_before_step(step: int) -> Tensor:
        before(step)
        return loss_at(step)

    return loss_before_step, lambda step, _: after(step)
