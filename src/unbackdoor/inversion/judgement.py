"""From what the inverters found to an answer: the p-value, the likely target, and backdoored, clean or cannot tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic

from unbackdoor.inversion.base import WORKS
from unbackdoor.inversion.detection import Null, Weighed, verdict, weigh
from unbackdoor.inversion.targets import Label, choose


@dataclass(frozen=True)
class Say(Generic[Label]):
    """One inverter's say.

    Args:
        statistic, target: as in `Recovered`; the target by index or name.
        works: share of held-out pictures that its trigger turns.
    """

    statistic: float
    target: Label
    works: float


@dataclass(frozen=True)
class Suspicion(Generic[Label]):
    """A class that would be a finding by itself, beside the one that was named.

    Args:
        target: the class, by index or name.
        p_value: the model's, had nothing stood out further than the inverters that name this class.
        shown: the inverter that stands out furthest among these.
    """

    target: Label
    p_value: float
    shown: str


@dataclass(frozen=True)
class Judgement(Generic[Label]):
    """The answer.

    Args:
        backdoored: None means that it cannot be told.
        message: the reason in a sentence.
        p_value: None without a null.
        score: the largest excess; None without a null.
        excess: by inverter, from `Weighed`; empty without a null.
        target, confidence: from `Choice`.
        shown: inverter whose trigger speaks for the target best.
        others: further suspicions of a backdoored model, the most extreme first.
    """

    backdoored: bool | None
    message: str
    p_value: float | None
    score: float | None
    excess: Mapping[str, float]
    target: Label
    confidence: float
    shown: str
    others: tuple[Suspicion[Label], ...] = ()


def judge(
    said: Mapping[str, Say[Label]], null: Null | None, false_alarm_rate: float, why_not: str = ""
) -> Judgement[Label]:
    """Weigh the inverters under a null; without one their votes are equal, and the message is `why_not`.

    Raises:
        InputError: the null holds an inverter that did not run, or no model.
    """
    names = list(said if null is None else null.inverters)
    weighed = None if null is None else weigh({name: row.statistic for name, row in said.items()}, null)
    excess = (1.0,) * len(names) if weighed is None else weighed.excess
    choice = choose([said[n].target for n in names], [said[n].works for n in names], excess)
    shown = names[choice.shown]
    if null is None or weighed is None:
        return Judgement(None, why_not, None, None, {}, choice.target, choice.confidence, shown)
    backdoored, message = verdict(weighed.p_value, false_alarm_rate, len(null.rows), said[shown].works)
    told = dict(zip(names, excess, strict=True))
    others = _others(said, told, choice.target, weighed, false_alarm_rate) if backdoored else ()
    return Judgement(
        backdoored, message, weighed.p_value, max(excess), told, choice.target, choice.confidence, shown, others
    )


def _others(
    said: Mapping[str, Say[Label]], excess: Mapping[str, float], named: Label, weighed: Weighed, rate: float
) -> tuple[Suspicion[Label], ...]:
    """Classes besides `named` whose inverters alone would be a finding: a model may hold several backdoors."""
    found: dict[Label, Suspicion[Label]] = {}
    for name in sorted(excess, key=lambda n: -excess[n]):
        row, p = said[name], weighed.p_of(excess[name])
        if row.target != named and row.works >= WORKS and p <= rate:
            found.setdefault(row.target, Suspicion(row.target, p, name))
    return tuple(found.values())
