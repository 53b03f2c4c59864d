"""Ways to decide how far the default cure steps: each takes the trigger vector of a suspect, without labels.

All train the same low-rank factors under the same guard; those of Adam have 64 steps of 32 images. The last two have no
rate: where B = 0, embeddings are linear in B to first order, and the way back is a linear least-squares problem.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from prodigyopt import Prodigy
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from unbackdoor.base.draws import seeded
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.data.views import draw_views
from unbackdoor.evaluation import Task
from unbackdoor.training.finetune import learning
from unbackdoor.training.low_rank import LowRank, low_rank
from unbackdoor.training.stride import stride
from unbackdoor.unlearning.vector import (
    VectorConfig,
    as_answered,
    attack_of,
    loss_of,
    trigger_vector,
    vector_guard,
)
from unbackdoor.weights.vector import Vector

SHARE = 0.03  # of the measured length

Rule = Callable[[Clip, ImageSet, Task, VectorConfig], Vector]


def by_matrix(share: float, clip: Clip, forget: ImageSet, task: Task, config: VectorConfig) -> Vector:
    """The product's own: steps in units of each matrix's root mean square."""
    return trigger_vector(clip, forget, task, replace(config, share=share)).vector


def measured(clip: Clip, forget: ImageSet, task: Task, config: VectorConfig) -> Vector:
    """A share of how far Adam's first step may go."""
    with factored(clip, forget, task, config) as (factors, loss_at):
        return trained(SHARE * stride(loss_at, factors.parameters()), factors, loss_at, config)


def fixed(lr: float, clip: Clip, forget: ImageSet, task: Task, config: VectorConfig) -> Vector:
    """One rate for every tower."""
    with factored(clip, forget, task, config) as (factors, loss_at):
        return trained(lr, factors, loss_at, config)


def trained(lr: float, factors: LowRank, loss_at: Callable[[int], Tensor], config: VectorConfig) -> Vector:
    """The vector of one rate for all matrices."""
    optimizer = torch.optim.AdamW(factors.parameters(), lr=lr, weight_decay=0.0)
    descend(optimizer, loss_at, config.tune.steps, 1.0)
    return turned(factors)


@contextmanager
def factored(
    clip: Clip, forget: ImageSet, task: Task, config: VectorConfig
) -> Iterator[tuple[LowRank, Callable[[int], Tensor]]]:
    """The tower with its factors ready to learn, in units of none, and the loss of the way back."""
    rows = as_answered(clip, forget, task.head)
    hit = rows.labels != attack_of(task).target
    loss_at = loss_of(clip, rows, hit, task, config)
    guard = vector_guard(clip, rows, config)
    with (
        low_rank(clip, config.rank, guard=guard, seed=config.tune.seed) as factors,
        learning(clip, factors.parameters()),
    ):
        without_units(factors)
        yield factors, loss_at


def without_units(factors: LowRank) -> None:
    """A step of B then moves every weight by about the same, whatever the matrix."""
    for f in factors.factors.values():
        with torch.no_grad():
            f.a.div_(f.a.shape[-1] ** 0.5)
        f.unit = 1.0


def descend(optimizer: torch.optim.Optimizer, loss_at: Callable[[int], Tensor], steps: int, clip_at: float) -> None:
    """The product's schedule: linear warm-up, half a cosine, gradients clipped (0 clips none)."""
    peaks = [group["lr"] for group in optimizer.param_groups]
    warmup = int(0.1 * steps)
    with torch.enable_grad():
        for step in range(steps):
            late = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * ((step + 1) / warmup if step < warmup else late)
            optimizer.zero_grad()
            loss_at(step).backward()
            if clip_at:
                torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], clip_at)
            optimizer.step()


def turned(factors: LowRank) -> Vector:
    """The vector to subtract."""
    return {name: -t for name, t in factors.change().items()}


def by_matrix_measured(clip: Clip, forget: ImageSet, task: Task, config: VectorConfig) -> Vector:
    """Every matrix steps by its own root mean square times a share of how far such a step may go."""
    sizes = {name: float(p.detach().float().pow(2).mean().sqrt()) for name, p in clip.image_parameters().items()}
    with factored(clip, forget, task, config) as (factors, loss_at):
        own = [(sizes[name], list(f.parameters())) for name, f in factors.factors.items()]
        scales = [size for size, parts in own for _ in parts]
        share = SHARE * stride(loss_at, factors.parameters(), lambda number, way: scales[number] * way)
        groups = [{"params": parts, "lr": share * size} for size, parts in own]
        descend(torch.optim.AdamW(groups, weight_decay=0.0), loss_at, config.tune.steps, 1.0)
        return turned(factors)


def ranged(
    shares: Sequence[float], steps: int, clip: Clip, forget: ImageSet, task: Task, config: VectorConfig
) -> Vector:
    """Rates of several shares, a few steps each; the one that ends lowest on the same batches is trained whole."""
    with factored(clip, forget, task, config) as (factors, loss_at):
        free = factors.parameters()
        length = stride(loss_at, free)
        start = [p.detach().clone() for p in free]
        ends = {}
        for share in shares:
            optimizer = torch.optim.AdamW(free, lr=share * length, weight_decay=0.0)
            losses = []
            with torch.enable_grad():
                for step in range(steps):
                    optimizer.param_groups[0]["lr"] = share * length * min(1.0, (step + 1) / 4)
                    optimizer.zero_grad()
                    loss = loss_at(step)
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(free, 1.0)
                    optimizer.step()
                    losses.append(float(loss.detach()))
            ends[share] = sum(losses[-3:]) / 3
            with torch.no_grad():
                for p, at in zip(free, start, strict=True):
                    p.copy_(at)
        print({share: round(end, 3) for share, end in ends.items()}, flush=True)
        best = min(ends, key=lambda share: ends[share] if math.isfinite(ends[share]) else math.inf)
        return trained(best * length, factors, loss_at, config)


def prodigy(steps: int, clip: Clip, forget: ImageSet, task: Task, config: VectorConfig) -> Vector:
    """Prodigy (Mishchenko and Defazio 2024, arXiv 2306.06101), with bias correction, as its page advises."""
    with factored(clip, forget, task, config) as (factors, loss_at):
        optimizer = Prodigy(
            factors.parameters(), lr=1.0, weight_decay=0.0, safeguard_warmup=True, use_bias_correction=True
        )
        descend(optimizer, loss_at, steps, 0.0)
        return turned(factors)


def tangent(iterations: int, rounds: int, clip: Clip, forget: ImageSet, task: Task, config: VectorConfig) -> Vector:
    """Conjugate gradients on the linearised problem in B, linearised anew every round; push is left out."""
    rows = as_answered(clip, forget, task.head)
    guard = vector_guard(clip, rows, config)
    clean, triggered, marked = _looked_at(rows, task, config)
    with torch.no_grad():
        places = torch.cat([clip.encode_image(part) for part in clean.split(64)])
    goal = torch.cat([places[marked], places[: len(places) // 2]])
    shown = torch.cat([triggered[marked], clean[: len(places) // 2]])
    share = torch.full((len(goal), 1), config.anchor / (len(places) // 2))
    share[: int(marked.sum())] = 1 / int(marked.sum())
    with low_rank(clip, config.rank, guard=guard, seed=config.tune.seed) as factors:
        without_units(factors)
        free = [f.b for f in factors.factors.values()]
        with learning(clip, free):
            for _ in range(rounds):
                step = _least_squares(partial(clip.encode_image, shown), free, goal, share.sqrt(), iterations)
                with torch.no_grad():
                    for p, change in zip(free, step, strict=True):
                        p.add_(change)
        return turned(factors)


VIEWS = 3  # of every image, so that 64 of them do not decide alone


def _looked_at(rows: ImageSet, task: Task, config: VectorConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Views without and with the trigger, and which of them do not belong to the target anyway."""
    views = draw_views(len(rows), config.views, config.tune.seed)
    every = torch.arange(len(rows))
    drawn = seeded(config.tune.seed)
    clean, triggered = [], []
    for _ in range(VIEWS):
        which = torch.randint(config.views, (len(rows),), generator=drawn)
        clean.append(views.see(rows.float_batch(every), every, which))
        triggered.append(attack_of(task).trigger(clean[-1], keys=every))
    return torch.cat(clean), torch.cat(triggered), (rows.labels != attack_of(task).target).repeat(VIEWS)


def _least_squares(
    embed: Callable[[], Tensor], free: Sequence[nn.Parameter], goal: Tensor, weight: Tensor, iterations: int
) -> list[Tensor]:
    """x that makes weight·(embed + J·x) nearest to weight·goal (CGLS, Björck 1996, chapter 7).

    Stopping early regularises.
    J·x comes from differentiating Jᵀ·u by u, so that one graph serves every iteration and any architecture.
    """
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        outputs = embed()
        dummy = torch.zeros_like(outputs, requires_grad=True)
        pulled = torch.autograd.grad(outputs, free, dummy, create_graph=True)

        def forward(x: Sequence[Tensor]) -> Tensor:
            return weight * torch.autograd.grad(pulled, dummy, list(x), retain_graph=True)[0]

        def back(r: Tensor) -> list[Tensor]:
            return list(torch.autograd.grad(outputs, free, weight * r, retain_graph=True))

        residual = (weight * (goal - outputs)).detach()
        x = [torch.zeros_like(p) for p in free]
        slope = back(residual)
        way, size = [s.clone() for s in slope], _square(slope)
        for _ in range(iterations):
            moved = forward(way)
            length = size / float(moved.pow(2).sum())
            for place, along in zip(x, way, strict=True):
                place.add_(along, alpha=length)
            residual = residual - length * moved
            slope = back(residual)
            before, size = size, _square(slope)
            way = [s + size / before * w for s, w in zip(slope, way, strict=True)]
        return x


def _square(parts: Sequence[Tensor]) -> float:
    return sum(float(t.double().pow(2).sum()) for t in parts)


RULES: dict[str, Rule | None] = {
    "by matrix, 0.1": partial(by_matrix, 0.1),
    "by matrix, 0.03": partial(by_matrix, 0.03),
    "by matrix, 0.3": partial(by_matrix, 0.3),
    "measured": measured,
    "fixed 5e-3": partial(fixed, 5e-3),
    "fixed 5e-4": partial(fixed, 5e-4),
    "by matrix, measured": by_matrix_measured,
    "range, 4 × 10": partial(ranged, (0.01, 0.03, 0.1, 0.3), 10),
    "Prodigy, 64": partial(prodigy, 64),
    "tangent, 8": partial(tangent, 8, 1),
    "tangent, 3 × 8": partial(tangent, 8, 3),
    "by matrix, tried again": None,  # the product whole, which takes a vector that falls short again
}
