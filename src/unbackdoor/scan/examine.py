"""All inverters on one model: what `scan` weighs and what a null is made of."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from unbackdoor.base import journal
from unbackdoor.base.progress import Progress
from unbackdoor.base.work import NOWHERE, Work
from unbackdoor.clip.handle import Clip
from unbackdoor.clip.streamline import streamlined
from unbackdoor.data.images import ImageSet
from unbackdoor.scan import narrowing
from unbackdoor.scan.cost import NARROWING, TWIN, Budget, in_order
from unbackdoor.scan.detection import fingerprint
from unbackdoor.scan.inverters import inverter, inverter_names, versions
from unbackdoor.scan.inverters.base import Kept, Recovered, Subject

Made = TypeVar("Made")
HELD = 64  # pictures on which a recovered trigger is tried
SEARCHED = 960


@dataclass(frozen=True)
class Examination:
    """How a model is examined.

    Args:
        inverters: names; all by default.
        seed: of every search.
        budget: inverters for which it leaves no time are left out, those that are worth least first; the first that
            is asked for runs in any case.
    """

    inverters: Sequence[str] | None = None
    seed: int = 0
    budget: Budget | None = None


@dataclass(frozen=True)
class Examined:
    """What the inverters found on these images, in the order of their names, and how long each took.

    Args:
        left_out: inverters for which there was no time.
    """

    images: ImageSet
    subject: Subject
    recovered: list[Recovered]
    seconds: dict[str, float]
    left_out: tuple[str, ...] = ()

    def statistics(self) -> list[dict[str, float]]:
        """Each inverter's statistics by class, as a null keeps them, to four digits.

        By index, too: a vocabulary may hold a name twice, and classes are told apart by index.
        """
        names = self.subject.names
        return [{f"{c} {names[c]}": round(v, 4) for c, v in row.scores.items()} for row in self.recovered]


def examine(
    clip: Clip,
    images: ImageSet,
    head: Tensor,
    names: Sequence[str],
    how: Examination,
    *,
    origin: Clip | None = None,
    work: Work = NOWHERE,
) -> Examined:
    """Run the inverters.

    Args:
        images: unlabelled pictures; the last 64 (at most a quarter) only try triggers out.
        head, names: (C, D) unit rows over the candidate classes, and their names.
        origin: a clean model that the suspect was made from, so that what is cheap by nature can be told apart.
        work: where what was found is kept, so that a killed run goes on.

    Raises:
        InputError: unknown inverter.
    """
    chosen, budget = list(how.inverters or inverter_names()), how.budget
    functions = {name: inverter(name).invert for name in chosen}
    subject = replace(split(clip, images, head, names, how.seed, origin), work=work)
    log = work.file("inverters.jsonl")
    kept = {} if log is None else {row.inverter: row for row in journal.read(log, Kept)}
    recovered = {name: row.recovered() for name, row in kept.items() if name in functions}
    seconds = {name: kept[name].seconds for name in recovered}
    left = [name for name in (in_order(chosen) if budget else chosen) if name not in recovered]
    if budget is not None:
        budget.resume(seconds)
    if left:
        subject = _prepared(subject, budget)
    with Progress("scan", len(chosen), len(recovered)) as bar:
        for name in left:
            if budget is not None and recovered and not budget.fits(name):
                continue
            began = time.perf_counter()
            recovered[name] = functions[name](subject)
            seconds[name] = time.perf_counter() - began
            if log is not None:
                journal.append(log, {**recovered[name].kept(), "seconds": seconds[name]})
            if budget is not None:
                budget.spend(name, seconds[name])
            bar.step(len(recovered))
    ran = [name for name in chosen if name in recovered]
    return Examined(
        images,
        subject,
        [recovered[name] for name in ran],
        {name: round(seconds[name], 2) for name in ran},
        tuple(name for name in chosen if name not in recovered),
    )


def _prepared(subject: Subject, budget: Budget | None) -> Subject:
    """With the classes that are to be searched; under a budget the twin is made now, so that its time is known."""
    if budget is not None and subject.origin is not None:
        _, taken = _timed(lambda: subject.twin)
        budget.spend(TWIN, taken)
    after, taken = _timed(lambda: narrowing.narrowed(subject))
    if budget is not None and narrowing.in_force(len(subject.names)):
        budget.spend(NARROWING, taken)
    return after


def _timed(make: Callable[[], Made]) -> tuple[Made, float]:
    began = time.perf_counter()
    return make(), time.perf_counter() - began


def split(
    clip: Clip, images: ImageSet, head: Tensor, names: Sequence[str], seed: int, origin: Clip | None = None
) -> Subject:
    """A model with the pictures to search on, and the last 64 (at most a quarter) to try triggers out on."""
    cut = len(images) - min(HELD, max(1, len(images) // 4))
    searched, held = images.subset(torch.arange(cut)), images.subset(torch.arange(cut, len(images)))
    return Subject(streamlined(clip), searched, held, head, tuple(names), seed, origin=origin)


def settings(images: int, inverters: Sequence[str], origin: str | None = None, classes: int = 0) -> str:
    """Fingerprint of everything that decides a statistic's scale besides the model and its classes.

    Args:
        origin: hash of the clean origin's weights, where there is one.
        classes: how many; only a list that is narrowed is another measure for that.
    """
    narrowed = [{"narrowing": narrowing.VERSION, "limit": narrowing.LIMIT}] if narrowing.in_force(classes) else []
    return fingerprint(versions(inverters), images, *([origin] if origin else []), *narrowed)
