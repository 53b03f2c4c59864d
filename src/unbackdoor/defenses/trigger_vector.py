"""The cure of a known attack (`unlearning.known`) in the form of a defense, for each of the ways to take the vector.

`tbar` is the published one: backdoor unlearning by linear task decomposition (arXiv 2510.14845).
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, fields, replace

import torch

from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.defenses.base import Cure, Defender, Defense, require
from unbackdoor.evaluation import Task
from unbackdoor.unlearning.alpha import AlphaConfig
from unbackdoor.unlearning.known import Plan, cure_known
from unbackdoor.unlearning.vector import METHODS, VectorConfig


@dataclass(frozen=True)
class Config(VectorConfig):
    """The vector's settings, and the choice of α.

    Args:
        alpha: number to subtract with; None searches.
        rule: the search's settings (`unlearning.known.rule_of`).
    """

    alpha: float | None = None
    rule: AlphaConfig = field(default_factory=AlphaConfig)


PRESETS = {
    name: Config(**{field.name: getattr(method, field.name) for field in fields(method)})
    for name, method in METHODS.items()
}


def defend(clip: Clip, data: Defender, config: Config, work: Work) -> Cure:
    """Take the trigger vector on the first clean images, choose α, subtract.

    Where α has validation images, labels of the forget set tell which images already show the target, and labels of the
    validation images measure CA; elsewhere the suspect's own answers do both, and no label is used.
    """
    require("tbar", "the trigger and the target", data.attack)
    began = time.perf_counter()
    forget = data.clean.subset(torch.arange(min(config.samples, len(data.clean))))
    held_out = data.validation.subset(torch.arange(min(config.validation, len(data.validation))))
    plan = replace(Plan.of(clip, forget, held_out, data.head, config, config.rule), alpha=config.alpha)
    cured = cure_known(clip, forget, Task(data.head, data.attack), plan, work=work)
    search, searched = cured.search, len(plan.tuning) if config.alpha is None and config.validation else 0
    assert cured.taken is not None
    return Cure(
        images=len(forget) + searched,
        labels=searched,
        steps=cured.steps,
        seconds=time.perf_counter() - began,
        facts={
            "alpha": search.alpha,
            "satisfied": search.satisfied,
            "attempts": cured.attempts,
            "curve": [point.as_dict() for point in search.curve],
            "tune": {**asdict(config.tune), "steps": cured.taken.steps, "lr": cured.taken.lr},
        },
    )


LORA, DISTILLED = Defense(PRESETS["lora"], defend), Defense(PRESETS["distilled"], defend)
ANCHORED, TBAR = Defense(PRESETS["anchored"], defend), Defense(PRESETS["tbar"], defend)
