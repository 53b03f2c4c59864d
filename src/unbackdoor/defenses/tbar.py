"""TBAR: backdoor unlearning by linear task decomposition (arXiv 2510.14845), known trigger.

1. Fine-tune the suspect θ briefly on triggered images → the trigger vector τ (`defenses.vector`, in several ways).
2. The cured model is θ − α·τ, with α chosen on held-out images, or on the forget set itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from unbackdoor import journal
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.data.views import draw_views
from unbackdoor.defenses.alpha import AlphaConfig, AlphaSearch, search_alpha
from unbackdoor.defenses.base import Cure, Defender, Defense, Work, require
from unbackdoor.defenses.vector import METHODS, Known, VectorConfig, as_answered, settled, trigger_vector
from unbackdoor.evaluation import Task, evaluate_images
from unbackdoor.metrics.backdoor import BackdoorRates
from unbackdoor.metrics.rates import Rate
from unbackdoor.weights.vector import Vector, Walk


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
    if log is None:
        return {}
    return {row.alpha: row.rates() for row in journal.read(log, _Point)}


@dataclass(frozen=True)
class _Point:
    """A line of the log: hits and images of every rate at one α."""

    alpha: float
    ca: tuple[int, int]
    asr: tuple[int, int]
    triggered_accuracy: tuple[int, int]

    def __post_init__(self) -> None:
        if not all(0 <= hits <= n for hits, n in (self.ca, self.asr, self.triggered_accuracy)):
            raise ValueError("counts more hits than images")

    def rates(self) -> BackdoorRates:
        return BackdoorRates(*(Rate(*counts) for counts in (self.ca, self.asr, self.triggered_accuracy)))


def _append_log(log: Path | None, alpha: float, rates: BackdoorRates) -> None:
    if log is None:
        return
    assert rates.asr is not None and rates.triggered_accuracy is not None
    counts = {"ca": rates.ca, "asr": rates.asr, "triggered_accuracy": rates.triggered_accuracy}
    journal.append(log, {"alpha": alpha, **{k: (r.hits, r.n) for k, r in counts.items()}})


@dataclass(frozen=True)
class Config(VectorConfig):
    """The vector's settings, and the choice of α.

    Args:
        alpha: number to subtract with; None searches.
        rule: the search's settings (`rule_of`).
    """

    alpha: float | None = None
    rule: AlphaConfig = field(default_factory=AlphaConfig)


OWN_VIEWS = 4
# Agreement on cropped and darkened images falls sooner than CA does.
OWN_FLOOR = 0.8
OWN_RESERVE = 1.2
PRESETS = {
    name: Config(**{field.name: getattr(method, field.name) for field in fields(method)})
    for name, method in METHODS.items()
}


def choosing(clip: Clip, forget: ImageSet, validation: ImageSet, head: Tensor, config: VectorConfig) -> ImageSet:
    """Images to choose α on: the validation images, or, where the method has none, views of the forget set.

    These are as `clip`, which still is the suspect, answers them, and but for two not those that the vector was taken
    from: what a trigger does to them tells well what it does to other images (docs/disentanglement.md).
    """
    if config.validation:
        return validation
    rows = torch.arange(len(forget))
    views = draw_views(len(forget), OWN_VIEWS, config.tune.seed + 1)
    seen = [views.see(forget.float_batch(rows), rows, torch.full_like(rows, number)) for number in range(OWN_VIEWS)]
    images = (torch.cat(seen) * 255).round().to(torch.uint8)
    return as_answered(clip, replace(forget, images=images, captions=None), head)


def rule_of(config: VectorConfig, rule: AlphaConfig) -> AlphaConfig:
    """The search's rule where α is chosen on views of the forget set."""
    if config.validation:
        return rule
    least, reserve = rule.least or config.least, max(rule.reserve, OWN_RESERVE)
    return replace(rule, least=least, reserve=reserve, floor=min(rule.floor, OWN_FLOOR))


def defend(clip: Clip, data: Defender, config: Config, work: Work) -> Cure:
    """Take the trigger vector on the first clean images, choose α, subtract.

    Where α has validation images, labels of the forget set tell which images already show the target, and labels of the
    validation images measure CA; elsewhere the suspect's own answers do both, and no label is used.
    """
    require("tbar", "the trigger and the target", data.trigger)
    assert data.trigger is not None and data.target is not None
    began = time.perf_counter()
    forget = data.clean.subset(torch.arange(min(config.samples, len(data.clean))))
    held_out = data.validation.subset(torch.arange(min(config.validation, len(data.validation))))
    tuning = choosing(clip, forget, held_out, data.head, config)
    known = Known(forget, data.trigger, data.target, data.head)
    taken = trigger_vector(clip, known, config, checkpoint=work.checkpoint("vector"), run_key=work.key)
    task = Task(data.head, data.trigger, data.target)
    log = None if work.folder is None else work.folder / "alpha.jsonl"
    rule = rule_of(config, config.rule)
    found = unlearn_(clip, taken.vector, tuning, task, rule, alpha=config.alpha, log=log)
    searched = len(tuning) if config.alpha is None and config.validation else 0
    return Cure(
        images=len(forget) + searched,
        labels=searched,
        steps=taken.steps,
        seconds=time.perf_counter() - began,
        facts={
            "alpha": found.alpha,
            "satisfied": found.satisfied,
            "curve": [point.as_dict() for point in found.curve],
            "tune": asdict(settled(config, clip).tune),
        },
    )


LORA, DISTILLED = Defense(PRESETS["lora"], defend), Defense(PRESETS["distilled"], defend)
ANCHORED, TBAR = Defense(PRESETS["anchored"], defend), Defense(PRESETS["tbar"], defend)
