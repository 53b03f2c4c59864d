"""What every inverter is given, and what it hands back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from unbackdoor.base.work import NOWHERE, Work
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.evaluation.answers import answers
from unbackdoor.metrics.rates import Rate
from unbackdoor.scan.twins import twin_of
from unbackdoor.triggers.base import Trigger
from unbackdoor.triggers.spec import from_spec

WORKS = 0.5  # share of held-out pictures from which a recovered trigger counts as one


@dataclass(frozen=True)
class Subject:
    """A model under examination.

    Args:
        clip: the suspect, streamlined (`clip/streamline.py`): its weights ask for no gradient.
        images: pictures to search on; labels are not read.
        held: other pictures, on which a recovered trigger is tried.
        head: (C, D) unit rows, the zero-shot head over the classes.
        names: the C classes.
        seed: of starting points and batches.
        candidates: indices of the classes that may be the target; None means all.
        origin: a clean model that the suspect was made from, or one of its architecture; None where none is known.
        work: where searches keep their state, so that a killed run goes on.
    """

    clip: Clip
    images: ImageSet
    held: ImageSet
    head: Tensor
    names: tuple[str, ...]
    seed: int = 0
    candidates: Tensor | None = None
    origin: Clip | None = None
    work: Work = NOWHERE

    @cached_property
    def own(self) -> Tensor:
        """The suspect's answers (N,) to the search pictures as they are."""
        return answers(self.clip, self.images, self.head)[0]

    @cached_property
    def held_own(self) -> Tensor:
        """The suspect's answers to the held pictures as they are."""
        return answers(self.clip, self.held, self.head)[0]

    @cached_property
    def twin(self) -> Subject | None:
        """A clean model of the suspect's task (`scan/twins.py`): what a class costs there, it costs by nature."""
        if self.origin is None:
            return None
        clip = twin_of(self.clip, self.origin, self.images, self.head, self.seed, self.work)
        return replace(self, clip=clip, origin=None, work=self.work.part("twin"))


@dataclass(frozen=True)
class Recovered:
    """A trigger as an inverter found it.

    Args:
        inverter: who found it.
        trigger: an ordinary trigger, quantised as its spec holds it.
        target: index of the class that triggered pictures get.
        embedding: (D,) unit mean embedding of triggered pictures, where they are pulled to.
        norm: how large the trigger is, in the inverter's own unit (a share of the picture, or RMS change in [0, 1]).
        strength: held pictures, outside those that the suspect gives the target anyway, that the trigger turns to it.
        statistic: larger for a backdoor; comparable among models of one architecture only.
        scores: the same of every class that was searched to the end, by index; the target's is the largest.
        facts: what went into the statistic.
    """

    inverter: str
    trigger: Trigger
    target: int
    embedding: Tensor
    norm: float
    strength: Rate
    statistic: float
    scores: Mapping[int, float]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def works(self) -> float:
        """`strength` as a number, 0 where no picture could be counted."""
        return self.strength.value if self.strength.n else 0.0

    def kept(self) -> dict[str, Any]:
        """For JSON, everything; `Kept` reads it back."""
        return {
            "inverter": self.inverter,
            "trigger": self.trigger.spec(),
            "target": self.target,
            "embedding": self.embedding.tolist(),
            "norm": self.norm,
            "strength": [self.strength.hits, self.strength.n],
            "statistic": self.statistic,
            "scores": sorted(self.scores.items()),
            "facts": self.facts,
        }

    def as_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """For JSON, the target by its name."""
        return {
            "target": names[self.target],
            "statistic": round(self.statistic, 4),
            "norm": round(self.norm, 5),
            "strength": self.strength.as_dict(),
            "trigger": self.trigger.spec(),
            "facts": self.facts,
        }


@dataclass(frozen=True)
class Kept:
    """A line that an inverter's result was kept as, and the seconds that it took."""

    inverter: str
    trigger: str
    target: int
    embedding: tuple[float, ...]
    norm: float
    strength: tuple[int, int]
    statistic: float
    scores: tuple[tuple[int, float], ...]
    facts: dict[str, Any]
    seconds: float

    def recovered(self) -> Recovered:
        """The result."""
        return Recovered(
            self.inverter,
            from_spec(self.trigger),
            self.target,
            torch.tensor(self.embedding),
            self.norm,
            Rate(*self.strength),
            self.statistic,
            dict(self.scores),
            self.facts,
        )


@dataclass(frozen=True)
class Asked:
    """What decides how much work an inverter has.

    Args:
        candidates: classes that are searched.
        side: of the pictures, in pixels.
        twin: whether there is one to compare with.
    """

    candidates: int
    side: int
    twin: bool = False


@dataclass(frozen=True)
class Effort:
    """Pictures that go through a model.

    Args:
        both: forward and back.
        forward: forward alone.
        half: the first in a half type, where the device is faster in one.
    """

    both: int
    forward: int = 0
    half: bool = False


@dataclass(frozen=True)
class Inverter:
    """A way to recover a trigger from a model.

    Args:
        version: whoever changes what it finds raises it, so that old nulls are not taken for new ones.
        invert: recovers the trigger.
        family: the `guided.Family` of its triggers for images of a side, which cures search again.
        more: the same of further triggers for a cure, where another family shows more; None takes `family`.
        stronger: the trigger made stronger, where the inverter knows how.
        effort: what it takes, so that the time can be told before; None is taken for as much as a guided search.
    """

    version: int
    invert: Callable[[Subject], Recovered]
    family: Callable[[int], Any]
    more: Callable[[int], Any] | None = None
    stronger: Callable[[Any], Trigger] | None = None
    effort: Callable[[Asked], Effort] | None = None


def try_out(subject: Subject, trigger: Trigger, target: int) -> tuple[Rate, Tensor]:
    """Strength of a trigger on the held pictures, and the unit mean embedding of triggered ones."""
    triggered, embeddings = answers(subject.clip, subject.held, subject.head, trigger)
    others = subject.held_own != target
    strength = Rate(int((triggered[others] == target).sum()), int(others.sum()))
    return strength, torch.nn.functional.normalize(embeddings.mean(dim=0), dim=0)


def works(subject: Subject, trigger: Trigger, target: int) -> bool:
    """Whether a trigger turns half of the held pictures."""
    strength, _ = try_out(subject, trigger, target)
    return bool(strength.n) and strength.value >= WORKS
