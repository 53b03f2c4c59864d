"""How far a training may step, measured on its own loss: no learning rate by the size of a model.

Adam's first step moves every element by the learning rate, whatever the gradient's size. So the loss is measured along
that one step, further and further; where it is lowest, the step is as long as the loss is still what its gradient says
(a line search; Nocedal and Wright, Numerical Optimization, chapter 3). A training of many steps takes a share of it.
How much lower the loss gets there differs; how that length compares with a good rate does not: see docs/lab/steps.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from unbackdoor.training.parallel import open_ranks

# Of the lengths tried: half types lose what is shorter, weights what is longer.
SHORTEST, LONGEST, FACTOR = 1e-6, 1.0, 4.0
BATCHES = 2  # the sign of one batch's gradient is noise in part, and the lowest place is then nearer
TOO_HIGH = 1.25  # of the loss at the start; what lies further need not be looked at

Soften = Callable[[int, Tensor], Tensor]


def stride(loss_at: Callable[[int], Tensor], parameters: Sequence[nn.Parameter], soften: Soften | None = None) -> float:
    """The length of Adam's first step at which the loss of its batches is lowest; parameters come back as they were.

    Args:
        loss_at: step → scalar loss, as `training.loop.fit` takes it; the first `BATCHES` steps are looked at.
        parameters: what learns, ready for gradients.
        soften: (number of the parameter, step) → the step as it is taken, where something takes a part of it away.

    Returns:
        The length; `SHORTEST` where none lowers the loss, so that a training with nothing to learn moves nothing.
    """
    ranks = open_ranks(parameters[0].device)
    start = 0.0
    with torch.enable_grad():
        for step in range(BATCHES):
            loss = loss_at(step) / BATCHES
            loss.backward()
            start += ranks.mean(loss.detach())
    ranks.average_gradients(list(parameters))
    ways = [torch.zeros_like(p) if p.grad is None else -p.grad.sign() for p in parameters]
    if soften is not None:
        ways = [soften(number, way) for number, way in enumerate(ways)]
    origin = [p.detach().clone() for p in parameters]
    for p in parameters:
        p.grad = None

    @torch.no_grad()
    def measured(length: float) -> float:
        for p, at, way in zip(parameters, origin, ways, strict=True):
            p.copy_(at + length * way)
        value = sum(ranks.mean(loss_at(step)) for step in range(BATCHES)) / BATCHES
        return value if math.isfinite(value) else math.inf

    try:
        return _lowest(measured, start)
    finally:
        with torch.no_grad():
            for p, at in zip(parameters, origin, strict=True):
                p.copy_(at)


def _lowest(measured: Callable[[float], float], start: float) -> float:
    """Where `measured` is lowest: lengths by `FACTOR` until it is too high, then a parabola through the last three."""
    tried = [(0.0, start)]
    length = SHORTEST
    while length <= LONGEST:
        tried.append((length, measured(length)))
        if tried[-1][1] > TOO_HIGH * start:
            break
        length *= FACTOR
    best = min(range(len(tried)), key=lambda i: tried[i][1])
    if best == 0:
        return SHORTEST
    three = tried[best - 1 : best + 2]
    if len(three) < 3 or not math.isfinite(three[2][1]):
        three = tried[max(0, best - 2) : best + 1]
    return _vertex(three, tried[best][0])


def _vertex(points: Sequence[tuple[float, float]], middle: float) -> float:
    """The lowest place of the parabola through three points, within `FACTOR` of `middle`; that, where there is none."""
    if len(points) < 3:
        return middle
    (a, left), (b, low), (c, right) = points
    rise, fall = (right - low) / (c - b), (low - left) / (b - a)
    bend = (rise - fall) / (c - a)
    if not bend > 0:
        return middle
    return min(max((a + b) / 2 - fall / (2 * bend), middle / FACTOR), middle * FACTOR)
