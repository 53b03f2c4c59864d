"""All inverters on one model: what `scan` weighs and what a null is made of."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unbackdoor.base import journal
from unbackdoor.base.progress import Progress
from unbackdoor.base.work import NOWHERE, Work
from unbackdoor.clip.handle import Clip
from unbackdoor.clip.streamline import streamlined
from unbackdoor.data.images import ImageSet
from unbackdoor.scan.detection import fingerprint
from unbackdoor.scan.inverters import inverter, inverter_names, versions
from unbackdoor.scan.inverters.base import Kept, Recovered, Subject

HELD = 64  # pictures on which a recovered trigger is tried
SEARCHED = 960
NEAREST = 24  # candidates from a vocabulary, when no class list is given


@dataclass(frozen=True)
class Examination:
    """How a model is examined.

    Args:
        inverters: names; all by default.
        vocabulary: the candidates are a vocabulary, of which those nearest to where the pictures collapse are searched.
        seed: of every search.
    """

    inverters: Sequence[str] | None = None
    vocabulary: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Examined:
    """What the inverters found on these images, in the order of their names, and how long each took."""

    images: ImageSet
    subject: Subject
    recovered: list[Recovered]
    seconds: dict[str, float]

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
    chosen = list(how.inverters or inverter_names())
    functions = {name: inverter(name).invert for name in chosen}
    seconds: dict[str, float] = {}
    subject = replace(split(clip, images, head, names, how.seed, origin), work=work)
    log = work.file("inverters.jsonl")
    kept = {} if log is None else {row.inverter: row for row in journal.read(log, Kept)}
    with Progress("scan", len(chosen)) as bar:
        recovered: dict[str, Recovered] = {}
        # A vocabulary is narrowed by what the pictures collapse to, so that this inverter goes first.
        for name in sorted(chosen, key=lambda n: n != "collapse"):
            if name in kept:
                recovered[name], seconds[name] = kept[name].recovered(), kept[name].seconds
            else:
                began = time.perf_counter()
                recovered[name] = functions[name](subject)
                seconds[name] = time.perf_counter() - began
                if log is not None:
                    journal.append(log, {**recovered[name].kept(), "seconds": seconds[name]})
            bar.step(len(recovered))
            if how.vocabulary and name == "collapse":
                near = (head.cpu() @ recovered[name].embedding).topk(min(NEAREST, len(names))).indices
                subject = replace(subject, candidates=near.sort().values)
    return Examined(images, subject, [recovered[name] for name in chosen], {k: round(v, 2) for k, v in seconds.items()})


def split(
    clip: Clip, images: ImageSet, head: Tensor, names: Sequence[str], seed: int, origin: Clip | None = None
) -> Subject:
    """A model with the pictures to search on, and the last 64 (at most a quarter) to try triggers out on."""
    cut = len(images) - min(HELD, max(1, len(images) // 4))
    searched, held = images.subset(torch.arange(cut)), images.subset(torch.arange(cut, len(images)))
    return Subject(streamlined(clip), searched, held, head, tuple(names), seed, origin=origin)


def settings(images: int, inverters: Sequence[str], origin: str | None = None) -> str:
    """Fingerprint of everything that decides a statistic's scale besides the model and its classes.

    Args:
        origin: hash of the clean origin's weights, where there is one.
    """
    return fingerprint(versions(inverters), images, *([origin] if origin else []))
