"""From what the inverters found to an answer: the p-value, the likely target, and backdoored, clean or cannot tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic

from unbackdoor.scan.alone import VOTERS, Standing, standing
from unbackdoor.scan.detection import Null, Weighed, verdict, weigh
from unbackdoor.scan.inverters.base import WORKS
from unbackdoor.scan.targets import Label, choose


@dataclass(frozen=True)
class Say(Generic[Label]):
    """One inverter's say.

    Args:
        scores: its statistics by class, by index or name.
        works: share of held-out pictures that the trigger for its foremost class turns.
    """

    scores: Mapping[Label, float]
    works: float

    @property
    def target(self) -> Label:
        """Its foremost class."""
        return max(self.scores, key=lambda c: self.scores[c])


@dataclass(frozen=True)
class Suspicion(Generic[Label]):
    """A class that would be a finding by itself, beside the one that was named.

    Args:
        target: the class, by index or name.
        p_value: the model's, had no other class more to speak for it.
        inverter: the one that stands out furthest among those that name it with a trigger that works.
    """

    target: Label
    p_value: float
    inverter: str


@dataclass(frozen=True)
class Judgement(Generic[Label]):
    """The answer.

    Args:
        backdoored: None means that it cannot be told.
        message: the reason in a sentence.
        p_value: None without a null.
        score: what speaks for the target, in steps; None without a null.
        excess: by inverter, from `Weighed`; empty without a null.
        target, confidence: from `Choice`; without a null the classes' own standing decides, or, where no inverter
            votes, how well each one's trigger works.
        inverter: the one whose trigger speaks for the target best.
        others: further suspicions of a backdoored model, the most extreme first.
        clean: the clean models' scores, which the p-value compares `score` with; empty without a null.
        alone: how far the target stands out among the classes of this model; None under a null, or where not all of
            the searches ran that vote.
    """

    backdoored: bool | None
    message: str
    p_value: float | None
    score: float | None
    excess: Mapping[str, float]
    target: Label
    confidence: float
    inverter: str
    others: tuple[Suspicion[Label], ...] = ()
    clean: tuple[float, ...] = ()
    alone: Standing[Label] | None = None


def judge(
    says: Mapping[str, Say[Label]], null: Null | None, false_alarm_rate: float, why_not: str = ""
) -> Judgement[Label]:
    """Weigh the inverters under a null; without one nothing can be told, and the message is `why_not`.

    Raises:
        InputError: the null holds an inverter that did not run, or no model.
    """
    if null is None:
        return _unweighed(says, why_not)
    names = list(null.inverters)
    targets, works = [says[n].target for n in names], [says[n].works for n in names]
    weighed = weigh({name: row.scores for name, row in says.items()}, null)
    choice = choose(weighed.totals, targets, works, [weighed.excess[n] for n in names])
    inverter = names[choice.place]
    backdoored, message = verdict(weighed.p_value, false_alarm_rate, len(null.rows), says[inverter].works)
    others = _others(says, choice.target, weighed, false_alarm_rate) if backdoored else ()
    score = weighed.totals[choice.target]
    parts = (choice.target, choice.confidence, inverter, others, weighed.clean)
    return Judgement(backdoored, message, weighed.p_value, score, weighed.excess, *parts)


def _unweighed(says: Mapping[str, Say[Label]], why_not: str) -> Judgement[Label]:
    """What can be told without a null: no answer, but the likeliest class."""
    names = list(says)
    targets, works = [says[n].target for n in names], [says[n].works for n in names]
    alone = standing({name: row.scores for name, row in says.items()})
    if alone is not None:
        votes, stands = alone.totals, [says[n].scores[says[n].target] if n in VOTERS else 0.0 for n in names]
    else:
        votes, stands = {}, [1.0] * len(names)
        for target, share in zip(targets, works, strict=True):
            votes[target] = votes.get(target, 0.0) + share
    choice = choose(votes, targets, works, stands)
    # What fewer searches come to is not comparable with what was measured of all.
    whole = alone if all(name in says for name in VOTERS) else None
    return Judgement(None, why_not, None, None, {}, choice.target, choice.confidence, names[choice.place], alone=whole)


def _others(
    says: Mapping[str, Say[Label]], named: Label, weighed: Weighed[Label], rate: float
) -> tuple[Suspicion[Label], ...]:
    """Classes besides `named` that would be a finding by themselves: a model may hold several backdoors."""
    suspicions = []
    for label, total in sorted(weighed.totals.items(), key=lambda pair: -pair[1]):
        own = [n for n in weighed.excess if says[n].target == label and says[n].works >= WORKS]
        p = weighed.p_of(total)
        if label != named and own and p <= rate:
            suspicions.append(Suspicion(label, p, max(own, key=lambda n: weighed.excess[n])))
    return tuple(suspicions)
