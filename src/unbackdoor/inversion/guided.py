"""Guided by the text tower: for each candidate class, the smallest universal change that pulls pictures to it.

All candidates are searched in one batch. A clean model needs changes of much the same size for every class; one with a
backdoor needs much less for its target (Neural Cleanse, Wang et al. 2019, section IV). The statistic is

    log(median cost of the other finalists / own cost)

where cost is the cross-entropy towards the candidate plus weight · size. Some classes are cheap by nature (a ladybug is
a red spot), and which these are depends on the data; so where the subject has a clean twin, each finalist's change is
searched on in it, and the statistic is at most

    log(cost in the twin / own cost)

A change that found something natural is soon as cheap in the twin, as that search has all the luck that this one had.
What shows a backdoor is many steps, more than many pictures in each: in two dozen steps any class is reached by an
ordinary adversarial pattern, and only later does the change for the target shrink to the trigger. So a step sees few
pictures, and the search goes in rounds of equal work, each with the better part of the candidates (successive halving,
Jamieson and Talwalkar 2016, arXiv 1502.07943).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from unbackdoor.devices import half_type
from unbackdoor.inversion.base import Recovered, Subject, try_out
from unbackdoor.inversion.proximal import Proximal
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
        unit: where the size is a sum of norms over raw's last dimension, the size of a norm of 1; steps are then
            proximal (`inversion/proximal.py`), not Adam's. 0 for any other size.
        heavy: with a `unit`, how many times its weight the size has at first, falling in four fifths of the steps
            (continuation: Hale, Yin and Zhang 2008). Candidates are given up by their cost at the weight of the time.
        probe: (subject, candidates (K,), raw) → raw that a search had better start from.
    """

    name: str
    lr: float
    weight: float
    start: Callable[[int, int, torch.Generator], Tensor]
    change: Callable[[Tensor, Tensor], Tensor]
    size: Callable[[Tensor, Tensor, Tensor], Tensor]
    trigger: Callable[[Tensor], Trigger]
    unit: float = 0.0
    heavy: float = 1.0
    probe: Callable[[Subject, Tensor, Tensor], Tensor] | None = None

    @property
    def shrink(self) -> float:
        """What a norm of 1 costs; 0 without a `unit`."""
        return self.weight * self.unit


@dataclass(frozen=True)
class GuidedConfig:
    """The search's budget.

    Args:
        passes: pictures through the suspect, forward and back, over all rounds.
        pictures: of a step, for each candidate.
        least: steps of the first round, however many candidates there are.
        finalists: candidates of the last round; the round before it has at most three times as many.
        measured: pictures on which the finalists' costs are measured; a quarter of them between the rounds.
    """

    passes: int = 4500
    pictures: int = 4
    least: int = 12
    finalists: int = 4
    measured: int = 64

    def rounds(self, candidates: int) -> list[tuple[int, int]]:
        """Candidates and steps of each round."""
        counts = [candidates]
        if candidates > 2 * self.finalists:
            counts.append(min(-(-candidates // 2), 3 * self.finalists))
        if candidates > self.finalists:
            counts.append(self.finalists)
        share = self.passes // len(counts) // self.pictures
        return [(count, max(share // count, self.least)) for count in counts]


def invert_guided(subject: Subject, family: Family, config: GuidedConfig | None = None) -> Recovered:
    """Search every candidate class and hand back the one that stands out."""
    config = config or GuidedConfig()
    candidates = torch.arange(len(subject.names)) if subject.candidates is None else subject.candidates
    rounds = config.rounds(len(candidates))
    generator = torch.Generator().manual_seed(step_seed(subject.seed, 0))
    search = Search.begin(subject, family, candidates, generator, sum(steps for _, steps in rounds))
    for count, steps in rounds:
        if count < len(search.candidates):
            now = replace(family, weight=family.weight * search.factor())
            cost, _ = _costs(subject, now, search.raw, search.candidates, config.measured // 4)
            search.keep(cost.argsort()[:count].sort().values)
        search.run(config.pictures, steps)
    raw, candidates = search.raw.detach(), search.candidates
    cost, size = _costs(subject, family, raw, candidates, config.measured)
    natural = None if subject.twin is None else _natural(subject.twin, family, raw, candidates, rounds[-1][1], config)
    score = standing(cost, natural)
    best = int(score.argmax())
    target = int(candidates[best])
    triggers = [family.trigger(row.cpu()) for row in raw]
    tried = [try_out(subject, found, int(c)) for found, c in zip(triggers, candidates, strict=True)]
    strength, embedding = tried[best]
    return Recovered(
        family.name,
        triggers[best],
        target,
        embedding,
        float(size[best]),
        strength,
        float(score[best]),
        {int(c): float(s) for c, s in zip(candidates, score, strict=True)},
        {
            "candidates": [subject.names[i] for i in candidates],
            "cost": _plain(cost),
            "size": _plain(size),
            "score": _plain(score),
            "works": [round(rate.value, 4) if rate.n else 0.0 for rate, _ in tried],
            **({} if natural is None else {"natural": _plain(natural)}),
        },
    )


def _natural(
    twin: Subject, family: Family, raw: Tensor, candidates: Tensor, steps: int, config: GuidedConfig
) -> Tensor:
    """What the candidates cost in the twin, (K,), after `steps` more from what was found in the suspect."""
    search = Search(twin, replace(family, heavy=1.0), candidates, raw.clone().requires_grad_(True), steps)
    search.run(config.pictures, steps)
    return _costs(twin, family, search.raw.detach(), candidates, config.measured)[0]


def standing(cost: Tensor, natural: Tensor | None = None) -> Tensor:
    """How far each of K costs stands out, (K,): among the classes, and at most as far as from its cost in a twin."""
    found = leads(cost)
    return found if natural is None else torch.minimum(found, (natural / cost).log())


def leads(cost: Tensor) -> Tensor:
    """log(median of the others' costs / own) for each of K costs, (K,); 0 where there is no other."""
    return (others_median(cost) / cost).log()


def others_median(values: Tensor) -> Tensor:
    """Median of the other values for each of K, (K,); its own where there is no other."""
    if len(values) == 1:
        return values
    others = torch.stack([torch.cat([values[:i], values[i + 1 :]]) for i in range(len(values))])
    return others.quantile(0.5, dim=1)


@dataclass
class Search:
    """Steps on all candidates' parameters at once; they share a step's pictures and nothing else."""

    subject: Subject
    family: Family
    candidates: Tensor
    raw: Tensor
    total: int
    step: int = 0
    optimiser: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        lr, shrink = self.family.lr, self.family.shrink
        self.optimiser = (
            Proximal(self.raw, lr, shrink) if shrink else torch.optim.Adam([self.raw], lr=lr, betas=(0.5, 0.9))
        )

    @staticmethod
    def begin(subject: Subject, family: Family, candidates: Tensor, generator: torch.Generator, total: int) -> Search:
        raw = family.start(len(candidates), subject.clip.image_size, generator).to(subject.clip.device)
        if family.probe is not None:
            raw = family.probe(subject, candidates, raw)
        return Search(subject, family, candidates, raw.requires_grad_(True), total)

    def keep(self, rows: Tensor) -> None:
        """Go on with these candidates alone, the optimiser's memory of them included."""
        memory = self.optimiser.state[self.raw]
        self.candidates, self.raw = self.candidates[rows], self.raw.detach()[rows].requires_grad_(True)
        self.__post_init__()
        self.optimiser.state[self.raw] = {k: v[rows] if v.dim() else v for k, v in memory.items()}

    def factor(self) -> float:
        """Of the size's weight at this step."""
        return math.pow(self.family.heavy, max(0.0, 1 - self.step / (0.8 * self.total)))

    def run(self, pictures: int, steps: int) -> None:
        """`steps` more; the rate falls along a cosine over all rounds, to a tenth."""
        asked = replace(self.family, weight=0.0) if self.family.unit else self.family
        # The search only; costs are measured in full precision. Proximal steps need it all along: half precision leaves
        # gradients where there are none, and waves that nothing asks for.
        compute = None if self.family.unit else half_type(self.raw.device)
        for _ in range(steps):
            share = self.step / self.total
            self.optimiser.param_groups[0]["lr"] = self.family.lr * (0.1 + 0.9 * (1 + math.cos(math.pi * share)) / 2)
            rows = batch_rows(len(self.subject.images), pictures, self.subject.seed, self.step)
            total, _ = _cost(self.subject, asked, self.raw, self.candidates, rows, compute)
            if self.family.unit:
                self.optimiser.param_groups[0]["shrink"] = self.family.shrink * self.factor()
            self.optimiser.zero_grad(set_to_none=True)
            total.sum().backward()
            self.optimiser.step()
            self.step += 1


@torch.no_grad()
def _costs(subject: Subject, family: Family, raw: Tensor, candidates: Tensor, pictures: int) -> tuple[Tensor, Tensor]:
    """Cost and size (K,), each a mean over the first `pictures` pictures."""
    found = []
    for rows in torch.arange(min(pictures, len(subject.images))).split(8):
        cost, size = _cost(subject, family, raw, candidates, rows)
        found.append(torch.stack([cost, size]) * len(rows))
    cost, size = torch.stack(found).sum(dim=0).cpu() / min(pictures, len(subject.images))
    return cost.clamp_min(1e-6), size


def _cost(
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
    clip = subject.clip
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
