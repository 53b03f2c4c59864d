"""Which part of a trigger vector does the work: each block of it subtracted alone, and all but it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from unbackdoor.base.progress import Progress
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.evaluation import Task, evaluate_images
from unbackdoor.metrics.backdoor import AlphaPoint, BackdoorRates
from unbackdoor.weights.blocks import blocks, shares
from unbackdoor.weights.vector import Walk


@dataclass(frozen=True)
class BlockEffect:
    """One block of a vector τ.

    Args:
        block: its name.
        share: of ‖τ‖².
        alone: rates at θ − α·τ_block.
        without: rates at θ − α·(τ − τ_block).
    """

    block: str
    share: float
    alone: BackdoorRates
    without: BackdoorRates


Measure = Callable[[str, Callable[[], BackdoorRates]], BackdoorRates]


def _now(_name: str, make: Callable[[], BackdoorRates]) -> BackdoorRates:
    return make()


def block_effects(
    clip: Clip, vector: Mapping[str, Tensor], alpha: float, images: ImageSet, task: Task, measure: Measure = _now
) -> list[BlockEffect]:
    """Every block's effect, in the order of the vector's tensors; `clip` is left as it was.

    Args:
        measure: (name of a measurement, what makes it) → it; where a run goes on, what was made before.

    Raises:
        InputError: the vector does not fit the model.
    """
    parts, share = blocks(vector), shares(vector)
    effects: list[BlockEffect] = []
    with Progress("blocks", 2 * len(parts)) as bar:
        for name, part in parts.items():
            rest = {key: t for key, t in vector.items() if key not in part}
            rates = []
            for which, moved in (("alone", part), ("without", rest)):

                def make(moved: Mapping[str, Tensor] = moved) -> BackdoorRates:
                    with _at(clip, moved, alpha):
                        return evaluate_images(clip, images, task)

                rates.append(measure(f"{which} {name}", make))
                bar.step(2 * len(effects) + len(rates))
            effects.append(BlockEffect(name, share[name], *rates))
    return effects


def path(
    clip: Clip,
    vector: Mapping[str, Tensor],
    alphas: Sequence[float],
    images: ImageSet,
    task: Task,
    measure: Measure = _now,
) -> list[AlphaPoint]:
    """CA and ASR along θ − α·τ; `clip` is left as it was. `measure` is as for `block_effects`.

    Raises:
        InputError: the vector does not fit the model.
    """
    walk, points = Walk(clip.state(), vector), []
    try:
        with Progress("path", len(alphas)) as bar:
            for alpha in alphas:

                def make(alpha: float = alpha) -> BackdoorRates:
                    walk.settle(alpha)
                    return evaluate_images(clip, images, task)

                rates = measure(f"path {alpha!r}", make)
                assert rates.asr is not None
                points.append(AlphaPoint(alpha, rates.ca, rates.asr))
                bar.step(len(points))
    finally:
        walk.settle(0.0)
    return points


@contextmanager
def _at(clip: Clip, vector: Mapping[str, Tensor], alpha: float) -> Iterator[None]:
    walk = Walk(clip.state(), vector)
    walk.settle(alpha)
    try:
        yield
    finally:
        walk.settle(0.0)
