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
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from unbackdoor.base.devices import half_type
from unbackdoor.base.draws import batch_rows, seeded, step_seed
from unbackdoor.base.work import NOWHERE, Work
from unbackdoor.evaluation.answers import logits
from unbackdoor.scan.inverters.base import Asked, Effort, Recovered, Subject, try_out
from unbackdoor.scan.inverters.proximal import Proximal
from unbackdoor.triggers.base import Trigger
from unbackdoor.weights.files import read_tensors, write_tensors

KEPT_SECONDS = 60.0
MEMORY = 2 << 30  # bytes that the first round's steps may remember; a thousand classes would take tens of GB at once


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
            proximal (`scan/inverters/proximal.py`), not Adam's. 0 for any other size.
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
    generator = seeded(step_seed(subject.seed, 0))
    search = Search.begin(subject, family, candidates, generator, sum(steps for _, steps in rounds))
    search.restore()
    group = group_size(subject, family, search.raw, config.pictures)
    if search.step == 0 and len(candidates) > group and len(rounds) > 1:
        search = _in_groups(search, group, rounds, config)
    ended = 0
    for count, steps in rounds:
        ended += steps
        if search.step >= ended:
            continue
        if search.step == ended - steps and count < len(search.candidates):
            search.keep(search.foremost(count, config))
        search.run(config.pictures, ended - search.step)
    raw, candidates = search.raw.detach(), search.candidates
    cost, size = _costs(subject, family, raw, candidates, config.measured)
    natural = None if subject.twin is None else _natural(subject.twin, family, raw, candidates, rounds[-1][1], config)
    score = standing(cost, natural)
    best = int(score.argmax())
    target = int(candidates[best])
    triggers = [family.trigger(row.cpu()) for row in raw]
    tried = [try_out(subject, trigger, int(c)) for trigger, c in zip(triggers, candidates, strict=True)]
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


def effort(asked: Asked, half: bool = True) -> Effort:
    """What a guided search takes, without what its family looks at before."""
    config = GuidedConfig()
    rounds = config.rounds(asked.candidates)
    both = sum(count * steps for count, steps in rounds) * config.pictures
    finalists, steps = rounds[-1]
    compared = sum(count for count, _ in rounds[:-1]) * (config.measured // 4)
    twins = 1 + asked.twin
    # Finalists' costs are measured, and their triggers tried on about as many held pictures.
    return Effort(
        both + asked.twin * finalists * steps * config.pictures,
        compared + finalists * config.measured * (twins + 1),
        half,
    )


def group_size(subject: Subject, family: Family, raw: Tensor, pictures: int) -> int:
    """How many candidates are searched at once, so that what a step remembers stays within `MEMORY`; at least 1."""
    # Parameters, their gradient and the optimiser's two memories and two more while it steps.
    of_candidate = pictures * bytes_of_picture(subject, family, raw) + 6 * raw[0].numel() * raw.element_size()
    return max(1, MEMORY // max(1, of_candidate))


def bytes_of_picture(subject: Subject, family: Family, raw: Tensor) -> int:
    """What the model remembers of a picture, counted on one, as automatic differentiation keeps it."""
    kept: dict[int, int] = {}

    def count(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return t

    weights = {t.untyped_storage().data_ptr() for t in subject.clip.state().values()}
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        one = raw.detach()[:1].clone().requires_grad_(True)
        rows = torch.zeros(1, dtype=torch.int64)
        _cost(subject, family, one, torch.zeros(1, dtype=torch.int64), rows, None)
    return sum(size for place, size in kept.items() if place not in weights)


def _in_groups(search: Search, size: int, rounds: list[tuple[int, int]], config: GuidedConfig) -> Search:
    """The search after its first round, made group by group; of each only what may pass into the next round is kept.

    Candidates share a step's pictures and nothing else, so that this gives, up to rounding, what one group does.
    """
    (_, steps), (count, _) = rounds[:2]
    best = search.part(torch.arange(1))
    done = int(best.read("groups", search.subject.work).get("groups", 0))
    for number, part in enumerate(torch.arange(len(search.candidates)).split(size)):
        if number < done:
            continue
        own = search.part(part)
        own.run(config.pictures, steps)
        if number:
            own.join(best)
        own.keep(own.foremost(count, config))
        best = own
        best.write("groups", search.subject.work, {"groups": str(number + 1)})
    best.subject = search.subject
    return best


def _natural(
    twin: Subject, family: Family, raw: Tensor, candidates: Tensor, steps: int, config: GuidedConfig
) -> Tensor:
    """What the candidates cost in the twin, (K,), after `steps` more from what was found in the suspect."""
    search = Search(twin, replace(family, heavy=1.0), candidates, raw.clone().requires_grad_(True), steps)
    search.restore()
    search.run(config.pictures, steps - search.step)
    return _costs(twin, family, search.raw.detach(), candidates, config.measured)[0]


def standing(cost: Tensor, natural: Tensor | None = None) -> Tensor:
    """How far each of K costs stands out, (K,): among the classes, and at most as far as from its cost in a twin."""
    ahead = leads(cost)
    return ahead if natural is None else torch.minimum(ahead, (natural / cost).log())


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
    optimizer: torch.optim.Optimizer = field(init=False)
    clock: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        lr, shrink = self.family.lr, self.family.shrink
        self.optimizer = (
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
        memory = self.optimizer.state[self.raw]
        self.candidates, self.raw = self.candidates[rows], self.raw.detach()[rows].requires_grad_(True)
        self.__post_init__()
        self.optimizer.state[self.raw] = {k: v[rows] if v.dim() else v for k, v in memory.items()}

    def foremost(self, count: int, config: GuidedConfig) -> Tensor:
        """Rows of the `count` candidates that cost least at the weight of the time, in their order."""
        now = replace(self.family, weight=self.family.weight * self.factor())
        cost, _ = _costs(self.subject, now, self.raw, self.candidates, config.measured // 4)
        return cost.argsort()[:count].sort().values

    def part(self, rows: Tensor) -> Search:
        """The same search of some of the candidates, as yet without a step; it keeps no state of its own."""
        subject = replace(self.subject, work=NOWHERE)
        # `own` is what the suspect answers to the search pictures, asked for once.
        subject.__dict__["own"] = self.subject.own
        raw = self.raw.detach()[rows].clone().requires_grad_(True)
        return Search(subject, self.family, self.candidates[rows], raw, self.total)

    def store(self) -> None:
        """Write the search's state, where the subject has a place for it and a minute has passed."""
        if time.monotonic() - self.clock >= KEPT_SECONDS:
            self.write("search", self.subject.work)
            self.clock = time.monotonic()

    def restore(self) -> None:
        """Go on from the state that is there, if it is this run's."""
        self.read("search", self.subject.work)

    def write(self, what: str, work: Work, more: Mapping[str, str] | None = None) -> None:
        """Write the state into a place, where there is one."""
        path = work.file(f"{self.family.name}.{what}")
        if path is None:
            return
        memory = {f"memory/{name}": t for name, t in self.optimizer.state[self.raw].items()}
        tensors = {"raw": self.raw.detach(), "candidates": self.candidates, **memory}
        facts = {"run": work.key, "step": str(self.step), **(more or {})}
        write_tensors(path, tensors, facts)

    def read(self, what: str, work: Work) -> dict[str, str]:
        """Take over the state that `write` left, if it is this run's; what stands beside it, nothing without one."""
        path = work.file(f"{self.family.name}.{what}")
        if path is None or not path.exists():
            return {}
        tensors, facts = read_tensors(path)
        if facts.get("run") != work.key:
            return {}
        self.step, self.candidates = int(facts["step"]), tensors["candidates"]
        self.raw = tensors["raw"].to(self.raw.device).requires_grad_(True)
        self.__post_init__()
        memory = {n.partition("/")[2]: t for n, t in tensors.items() if n.startswith("memory/")}
        self.optimizer.state[self.raw] = {k: t.to(self.raw.device) if t.dim() else t for k, t in memory.items()}
        return facts

    def join(self, other: Search) -> None:
        """Take in another search's candidates, which are as far and come before these."""
        memory, others = self.optimizer.state[self.raw], other.optimizer.state[other.raw]
        self.candidates = torch.cat([other.candidates, self.candidates])
        self.raw = torch.cat([other.raw.detach(), self.raw.detach()]).requires_grad_(True)
        self.__post_init__()
        self.optimizer.state[self.raw] = {k: torch.cat([others[k], v]) if v.dim() else v for k, v in memory.items()}

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
            self.optimizer.param_groups[0]["lr"] = self.family.lr * (0.1 + 0.9 * (1 + math.cos(math.pi * share)) / 2)
            rows = batch_rows(len(self.subject.images), pictures, self.subject.seed, self.step)
            total, _ = _cost(self.subject, asked, self.raw, self.candidates, rows, compute)
            if self.family.unit:
                self.optimizer.param_groups[0]["shrink"] = self.family.shrink * self.factor()
            self.optimizer.zero_grad(set_to_none=True)
            total.sum().backward()
            self.optimizer.step()
            self.step += 1
            self.store()


@torch.no_grad()
def _costs(subject: Subject, family: Family, raw: Tensor, candidates: Tensor, pictures: int) -> tuple[Tensor, Tensor]:
    """Cost and size (K,), each a mean over the first `pictures` pictures."""
    costs = []
    # Sixteen times the bytes of a picture are at hand while it is looked at.
    some = max(1, MEMORY // 2 // (8 * 16 * 4 * 3 * subject.clip.image_size**2))
    parts = torch.arange(len(candidates)).split(some)
    for rows in torch.arange(min(pictures, len(subject.images))).split(8):
        pieces = [torch.stack(_cost(subject, family, raw[part], candidates[part], rows)) for part in parts]
        costs.append((pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)) * len(rows))
    cost, size = torch.stack(costs).sum(dim=0).cpu() / min(pictures, len(subject.images))
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
    wanted = candidates.to(raw.device).repeat_interleave(n)
    answers = logits(subject.clip, changed, subject.head, compute=compute)
    loss = F.cross_entropy(answers, wanted, reduction="none").view(k, n)
    counts = (subject.own[rows][None] != candidates[:, None]).to(loss)
    size = family.size(raw, pictures, changed)
    return (loss * counts).sum(dim=1) / counts.sum(dim=1).clamp_min(1) + family.weight * size, size


def rms_change(raw: Tensor, pictures: Tensor, changed: Tensor) -> Tensor:
    """Root mean square change of the pictures of each candidate, (K,) in [0, 1]."""
    gap = (changed - pictures).view(len(raw), -1)
    return gap.pow(2).mean(dim=1).add(1e-8).sqrt()


def _plain(values: Tensor) -> list[float]:
    return [round(float(v), 4) for v in values]
