"""The one cure of an attack that is known (TBAR, arXiv 2510.14845): the trigger vector, α, and the difference.

1. Fine-tune the suspect θ briefly on triggered images → the trigger vector τ (`unlearning.vector`, in several ways).
2. The cured model is θ − α·τ, with α chosen on held-out images, or on the forget set itself.

Commands, bench cells and the cure of a recovered attack all come here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from unbackdoor.base import journal
from unbackdoor.base.notices import warn
from unbackdoor.base.work import NOWHERE, Work
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.data.views import draw_views
from unbackdoor.evaluation import Task, evaluate_images
from unbackdoor.metrics.backdoor import AlphaPoint, BackdoorRates
from unbackdoor.metrics.rates import Rate
from unbackdoor.training.finetune import settle_steps
from unbackdoor.unlearning.alpha import CLEAN_WEIGHT, AlphaConfig, AlphaSearch, search_alpha
from unbackdoor.unlearning.vector import TakenVector, VectorConfig, as_answered, trigger_vector
from unbackdoor.weights.vector import Vector, Walk

OWN_VIEWS = 4
# Agreement on cropped and darkened images falls sooner than CA does.
OWN_FLOOR = 0.8
OWN_RESERVE = 1.2
# The way back was trained up to α = 1. The smallest α that the attack does not survive leaves triggered images between
# the target and where they belong; further on they get their answers back (docs/lab/steps.md).
OWN_REGAIN = (0.8, 1.0, 1.2)


@dataclass(frozen=True)
class Attempt:
    """How a vector is taken again where the one before fell short: in other steps, and more of them.

    Args:
        share: factor on the rate that is not given (`VectorConfig.share`).
        steps: factor on the number of steps.
    """

    share: float = 1.0
    steps: int = 1

    def of(self, config: VectorConfig, n: int) -> VectorConfig:
        """`config` so changed, for n images."""
        if self == Attempt():
            return config
        tune = settle_steps(config.tune, n)
        return replace(config, share=config.rate * self.share, tune=replace(tune, steps=tune.steps * self.steps))


MOST_ATTEMPTS = 3
# More steps of the same length, then of a shorter one; longer ones cost clean accuracy (docs/lab/steps.md).
OTHER_STEPS = (Attempt(steps=2), Attempt(share=0.25, steps=2))
STRETCHED = 2.0  # α beyond which a way back that was trained up to α = 1 did not arrive: its steps were too short
REGAINED = 0.7  # of the triggered held-out views, so many answered as without the trigger


@dataclass(frozen=True)
class Plan:
    """How one suspect is cured.

    Args:
        config: of the vector.
        tuning: images to choose α on.
        rule: of that choice.
        alpha: number to subtract with; None searches.
    """

    config: VectorConfig
    tuning: ImageSet
    rule: AlphaConfig
    alpha: float | None = None

    @classmethod
    def of(
        cls, clip: Clip, forget: ImageSet, validation: ImageSet, head: Tensor, config: VectorConfig, rule: AlphaConfig
    ) -> Plan:
        """Images and rule that go with a way to take the vector.

        Args:
            clip: the suspect, not cured yet.
            validation: other images with labels, for the ways that choose α on them.
        """
        return cls(config, choosing(clip, forget, validation, head, config), rule_of(config, rule))


@dataclass(frozen=True)
class Cured:
    """What was subtracted, and how far.

    Args:
        vector: τ.
        taken: how it was taken; None where it was given.
        search: α, and what was measured on the way to it.
        attempts: vectors that were taken, of which this is the best.
        steps: of the optimizer, over all attempts.
    """

    vector: Vector
    taken: TakenVector | None
    search: AlphaSearch
    attempts: int = 1
    steps: int = 0


def cure_known(
    clip: Clip,
    forget: ImageSet,
    task: Task,
    plan: Plan,
    *,
    vector: Vector | None = None,
    taken: Callable[[TakenVector], None] | None = None,
    work: Work = NOWHERE,
) -> Cured:
    """Take the vector, choose α, and move `clip` to θ − α·τ in place.

    Where nobody decided on rate or α and the result falls short on held-out views of the defender's own images, the
    vector is taken again, at most twice, and the best one counts; a rule without `regain` lets it be taken again once,
    where no α satisfies it.

    Args:
        vector: one that was taken before; None takes it now.
        taken: is handed every vector before α is searched for, and at the end the best one, if it is not the last.
        work: where a killed cure goes on.

    Raises:
        InputError: no image is left to trigger, or to choose α on.
    """
    if vector is not None:
        return Cured(vector, None, _walked(clip, Walk(clip.state(), vector), task, plan, work))
    best: Cured | None = None
    steps = 0
    most = _most_attempts(plan)
    attempt, others = Attempt(), iter(OTHER_STEPS)
    length = 1.0  # of a step, where the first turned out too short
    for number in range(1, most + 1):
        part = work if number == 1 else work.part(f"attempt-{number}")
        made = trigger_vector(clip, forget, task, attempt.of(plan.config, len(forget)), work=part)
        if taken is not None:
            taken(made)
        walk = Walk(clip.state(), made.vector)
        search = _walked(clip, walk, task, plan, part)
        current, steps = Cured(made.vector, made, search), steps + made.steps
        if best is None or _merit(search) > _merit(best.search):
            best = current
        short = _shortfall(search, plan.rule) if number < most else None
        if short is None:
            break
        if not plan.rule.regain:
            attempt = Attempt(steps=plan.rule.longer)
        elif search.alpha > STRETCHED:
            length = attempt.share * search.alpha
            attempt = Attempt(share=length)
        else:
            other = next(others)
            attempt = replace(other, share=length * other.share)
        warn(f"attempt {number} falls short on held-out views: {short}; the vector is taken again, in other steps")
        walk.settle(0.0)
    assert best is not None
    if best is not current:
        walk.settle(0.0)
        Walk(clip.state(), best.vector).settle(best.search.alpha)
        if taken is not None and best.taken is not None:
            taken(best.taken)
    return replace(best, attempts=number, steps=steps)


def _most_attempts(plan: Plan) -> int:
    """More than one where nobody decided on rate or α, and the choice rests on the defender's own images alone."""
    if plan.alpha is not None or plan.config.tune.lr:
        return 1
    return MOST_ATTEMPTS if plan.rule.regain else min(plan.rule.longer, 2)


def _shortfall(search: AlphaSearch, rule: AlphaConfig) -> str | None:
    """Why a cure is not good enough, by what was measured on the images for choosing; None where it is."""
    if search.nothing:
        return None
    if not search.satisfied:
        return search.message
    if not rule.regain:
        return None
    if search.alpha > STRETCHED:
        return f"the vector had to be stretched {search.alpha:.3g} times"
    back = _chosen(search).triggered_accuracy
    if back is not None and back.value < REGAINED:
        return f"{back.value:.0%} of the triggered images get the answer back that they have without the trigger"
    return None


def _merit(search: AlphaSearch) -> tuple[bool, bool, float]:
    """What is compared between attempts: whether both limits are kept, by a vector that arrived; then right answers."""
    point = _chosen(search)
    back = 0.0 if point.triggered_accuracy is None else point.triggered_accuracy.value
    arrived = search.alpha <= STRETCHED
    return (
        search.satisfied,
        arrived,
        CLEAN_WEIGHT * point.ca.value + back - (0.0 if search.satisfied else point.asr.value),
    )


def _chosen(search: AlphaSearch) -> AlphaPoint:
    return next(point for point in search.curve if point.alpha == search.alpha)


def subtract(
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
    return _search(clip, Walk(clip.state(), vector), validation, task, config, alpha=alpha, log=log)


def _walked(clip: Clip, walk: Walk, task: Task, plan: Plan, work: Work) -> AlphaSearch:
    return _search(clip, walk, plan.tuning, task, plan.rule, alpha=plan.alpha, log=work.log("alpha"))


def _search(
    clip: Clip,
    walk: Walk,
    validation: ImageSet,
    task: Task,
    config: AlphaConfig,
    *,
    alpha: float | None,
    log: Path | None,
) -> AlphaSearch:
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

    search = search_alpha(measure, config)
    walk.settle(search.alpha)
    return search


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


def choosing(clip: Clip, forget: ImageSet, validation: ImageSet, head: Tensor, config: VectorConfig) -> ImageSet:
    """Images to choose α on: the validation images, or, where the method has none, views of the forget set.

    These are as `clip`, which still is the suspect, answers them, and but for two not those that the vector was taken
    from: what a trigger does to them tells well what it does to other images (docs/lab/disentanglement.md).
    """
    if config.validation:
        return validation
    rows = torch.arange(len(forget))
    views = draw_views(len(forget), OWN_VIEWS, config.tune.seed + 1)
    pictures = [views.see(forget.float_batch(rows), rows, torch.full_like(rows, number)) for number in range(OWN_VIEWS)]
    images = (torch.cat(pictures) * 255).round().to(torch.uint8)
    return as_answered(clip, replace(forget, images=images, captions=None), head)


def rule_of(config: VectorConfig, rule: AlphaConfig) -> AlphaConfig:
    """The search's rule where α is chosen on views of the forget set."""
    if config.validation:
        return rule
    least, reserve = rule.least or config.least, max(rule.reserve, OWN_RESERVE)
    regain = OWN_REGAIN if config.toward == "clean" else ()
    return replace(rule, least=least, reserve=reserve, floor=min(rule.floor, OWN_FLOOR), regain=rule.regain or regain)
