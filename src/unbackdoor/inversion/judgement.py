"""From what the inverters found to an answer: the p-value, the likely target, and backdoored, clean or cannot tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic

from unbackdoor.inversion.detection import Null, verdict, weigh
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
    """

    backdoored: bool | None
    message: str
    p_value: float | None
    score: float | None
    excess: Mapping[str, float]
    target: Label
    confidence: float
    shown: str


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
    return Judgement(
        backdoored, message, weighed.p_value, max(excess), told, choice.target, choice.confidence, shown
    )  # fmt: skip
