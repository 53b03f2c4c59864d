"""Guided by the text tower: for each candidate class, the smallest universal change that pulls pictures to it.

All candidates are searched in one batch. A clean model needs changes of much the same size for every class; one with a
backdoor needs much less for its target (Neural Cleanse, Wang et al. 2019, section IV). Two comparisons make the
statistic:

    log(median of all candidates' costs / own cost) + log(cost for the twin / own cost), less the candidates' median

where cost is the cross-entropy towards the candidate plus weight · size, and the twin is a copy of the suspect that has
forgotten what its clean answers do not need (`twin.py`). A class that is easy because it looks like texture is just as
easy for the twin; a backdoor is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unbackdoor.clip.handle import Clip
from unbackdoor.devices import training_type
from unbackdoor.inversion.base import Recovered, Subject, try_out
from unbackdoor.training.batches import batch_rows, step_seed
from unbackdoor.triggers.base import Trigger


@dataclass(frozen=True)
class Family:
    """A family of changes; K candidates are searched at once, each with its own row of raw parameters.

    Args:
        name: of the inverter.
        lr: Adam's rate on the raw parameters.
        weight: of the size in the cost.
        start: (K, side, generator) → raw parameters (K, …).
        change: (pictures (K·n, 3, S, S) grouped by candidate, raw) → changed pictures in [0, 1].
        size: (raw, pictures, changed) → (K,).
        trigger: one candidate's raw parameters → the trigger.
    """

    name: str
    lr: float
    weight: float
    start: Callable[[int, int, torch.Generator], Tensor]
    change: Callable[[Tensor, Tensor], Tensor]
    size: Callable[[Tensor, Tensor, Tensor], Tensor]
    trigger: Callable[[Tensor], Trigger]


@dataclass(frozen=True)
class GuidedConfig:
    """The search's budget.

    Args:
        passes: pictures through the suspect, forward and back, in the main search.
        per_candidate: pictures of a step for each candidate.
        finalists: candidates in the main search; when there are more, a short search of all comes first.
        screen_steps, screen_pictures: of that short search, for each candidate.
        measured: pictures on which the costs are measured in the end.
    """

    passes: int = 6000
    per_candidate: int = 12
    finalists: int = 12
    screen_steps: int = 12
    screen_pictures: int = 4
    measured: int = 64


def invert_guided(subject: Subject, family: Family, config: GuidedConfig | None = None) -> Recovered:
    """Search every candidate class and hand back the one that stands out."""
    config = config or GuidedConfig()
    candidates = torch.arange(len(subject.names)) if subject.candidates is None else subject.candidates
    generator = torch.Generator().manual_seed(step_seed(subject.seed, 0))
    raw = family.start(len(candidates), subject.clip.image_size, generator).to(subject.clip.device)
    if len(candidates) > config.finalists:
        raw = _search(subject, family, raw, candidates, config.screen_pictures, config.screen_steps)
        cost = _costs(subject.clip, subject, family, raw, candidates, config.measured // 4)[0]
        kept = cost.argsort()[: config.finalists].sort().values
        candidates, raw = candidates[kept], raw[kept]
    steps = max(1, config.passes // (config.per_candidate * len(candidates)))
    raw = _search(subject, family, raw, candidates, config.per_candidate, steps)
    cost, size = _costs(subject.clip, subject, family, raw, candidates, config.measured)
    other, _ = _costs(subject.twin, subject, family, raw, candidates, config.measured)
    lead = (cost.median() / cost).log()
    drop = (other / cost).log()
    score = lead + drop - drop.median()
    best = int(score.argmax())
    target = int(candidates[best])
    trigger = family.trigger(raw[best].cpu())
    strength, embedding = try_out(subject, trigger, target)
    return Recovered(
        family.name,
        trigger,
        target,
        embedding,
        float(size[best]),
        strength,
        float(score[best]),
        {
            "candidates": [subject.names[i] for i in candidates],
            "cost": _plain(cost),
            "twin_cost": _plain(other),
            "size": _plain(size),
            "score": _plain(score),
        },
    )


def _search(subject: Subject, family: Family, raw: Tensor, candidates: Tensor, pictures: int, steps: int) -> Tensor:
    """`steps` of Adam on all candidates' parameters; they share a step's pictures and nothing else."""
    raw = raw.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([raw], lr=family.lr, betas=(0.5, 0.9))
    compute = training_type(raw.device)  # the search only; costs are measured in full precision
    for step in range(steps):
        rows = batch_rows(len(subject.images), pictures, subject.seed, step)
        total, _ = _cost(subject.clip, subject, family, raw, candidates, rows, compute)
        optimiser.zero_grad(set_to_none=True)
        total.sum().backward()
        optimiser.step()
    return raw.detach()


@torch.no_grad()
def _costs(
    clip: Clip, subject: Subject, family: Family, raw: Tensor, candidates: Tensor, pictures: int
) -> tuple[Tensor, Tensor]:
    """Cost and size (K,), each a mean over the first `pictures` pictures."""
    found = []
    for rows in torch.arange(min(pictures, len(subject.images))).split(8):
        cost, size = _cost(clip, subject, family, raw, candidates, rows)
        found.append(torch.stack([cost, size]) * len(rows))
    cost, size = torch.stack(found).sum(dim=0).cpu() / min(pictures, len(subject.images))
    return cost.clamp_min(1e-6), size


def _cost(
    clip: Clip,
    subject: Subject,
    family: Family,
    raw: Tensor,
    candidates: Tensor,
    rows: Tensor,
    compute: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy towards each candidate plus weight · size, (K,), and the sizes, (K,).

    Pictures that the suspect gives a candidate anyway say nothing about its trigger and are left out of its mean.
    """
    batch = subject.images.float_batch(rows).to(raw.device)
    k, n = len(candidates), len(rows)
    pictures = batch.expand(k, *batch.shape).reshape(k * n, *batch.shape[1:])
    changed = family.change(pictures, raw)
    logits = clip.logit_scale * clip.encode_image(changed, compute=compute) @ subject.head.T
    wanted = candidates.to(raw.device).repeat_interleave(n)
    loss = F.cross_entropy(logits, wanted, reduction="none").view(k, n)
    counts = (subject.own[rows][None] != candidates[:, None]).to(loss)
    size = family.size(raw, pictures, changed)
    return (loss * counts).sum(dim=1) / counts.sum(dim=1).clamp_min(1) + family.weight * size, size


def rms_change(raw: Tensor, pictures: Tensor, changed: Tensor) -> Tensor:
    """Root mean square change of the pictures of each candidate, (K,) in [0, 1]."""
    gap = (changed - pictures).view(len(raw), -1)
    return gap.pow(2).mean(dim=1).add(1e-8).sqrt()


def _plain(values: Tensor) -> list[float]:
    return [round(float(v), 4) for v in values]
