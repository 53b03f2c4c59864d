"""Back towards the pre-trained weights: θ = (1 − β)·θ_suspect + β·θ_pre.

Fine-tuning that planted the backdoor is undone in part, the task that it taught as well (WiSE-FT, Wortsman et al. 2022,
arXiv 2109.01903, read as a defense). With τ = θ_suspect − θ_pre this is θ_suspect − β·τ: β is to the whole fine-tuning
what α is to TBAR's trigger vector, and is searched by the same rule.

Buffers such as BatchNorm statistics stay the suspect's; planting leaves them alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import torch

from unbackdoor.base.errors import InputError
from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.defenses.base import Cure, Defender, Defense, require
from unbackdoor.evaluation import Task
from unbackdoor.unlearning.alpha import AlphaConfig
from unbackdoor.unlearning.known import subtract
from unbackdoor.weights.vector import difference

DEFAULT_BETA = 0.5


@dataclass(frozen=True)
class Config:
    """How far back.

    Args:
        beta: share of the pre-trained weights, in [0, 1]; None searches where the trigger is known, else 0.5.
        rule: the search's settings; it goes no further than 1.
        validation: images for the search.
    """

    beta: float | None = None
    rule: AlphaConfig = field(default_factory=AlphaConfig)
    validation: int = 512


def defend(clip: Clip, data: Defender, config: Config, work: Work) -> Cure:
    """Move `clip` in place towards the pre-trained weights; no step of training."""
    require("interpolate", "the pre-trained model", data.pretrained)
    assert data.pretrained is not None
    if config.beta is not None and not 0 <= config.beta <= 1:
        raise InputError(f"defense interpolate: beta {config.beta} must lie in [0, 1]")
    began = time.perf_counter()
    before = {name: p.to(clip.device) for name, p in data.pretrained.tower_parameters("both").items()}
    vector = difference(clip.tower_parameters("both"), before)
    known = data.attack is not None
    beta = config.beta if config.beta is not None or known else DEFAULT_BETA
    tuning = data.validation.subset(torch.arange(min(config.validation, len(data.validation))))
    task = Task(data.head, data.attack)
    log = None if work.folder is None else work.folder / "beta.jsonl"
    search = subtract(clip, vector, tuning, task, replace(config.rule, largest=1.0), alpha=beta, log=log)
    used = len(tuning) if beta is None else 0
    return Cure(
        used,
        used,
        0,
        time.perf_counter() - began,
        facts={"beta": search.alpha, "searched": beta is None, "curve": [point.as_dict() for point in search.curve]},
    )


DEFENSE = Defense(Config(), defend)
