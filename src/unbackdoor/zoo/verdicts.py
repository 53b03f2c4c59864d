"""What scanning a zoo comes to: the null of one half's clean members, and the other members' p-values under it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unbackdoor.inversion.detection import Null, verdict, weigh
from unbackdoor.inversion.targets import choose
from unbackdoor.zoo.recipe import CLEAN

TOOK = 0.5  # attack success from which a poisoned member counts as backdoored
Row = dict[str, Any]  # names of a member beside its examination under "seen" and its card under "card"


@dataclass(frozen=True)
class Verdict:
    """A member as a scan would judge it, beside what it is."""

    row: Row
    p_value: float
    score: float
    backdoored: bool | None
    target: str
    confidence: float
    shown: str

    @property
    def truth(self) -> bool | None:
        """Whether the member is backdoored; None where it was poisoned and the attack works on less than half."""
        if self.row["family"] == CLEAN:
            return False
        return True if self.row["card"]["after"]["asr"]["value"] >= TOOK else None

    @property
    def right_target(self) -> bool:
        """Whether the target is the attacker's."""
        return bool(self.target == self.row["card"]["target"])


def make_null(rows: Sequence[Row], architecture: str, settings: str) -> Null:
    """The null of the clean members among `rows`."""
    clean = [row for row in rows if row["family"] == CLEAN]
    names = tuple(clean[0]["seen"]["inverters"]) if clean else ()
    statistics = tuple(tuple(row["seen"]["inverters"][n]["statistic"] for n in names) for row in clean)
    told = tuple(f"{row['half']} {row['number']}: {row['data']}, {row['card']['steps']} steps" for row in clean)
    return Null(architecture, settings, names, statistics, told)


def judge(row: Row, null: Null, false_alarm_rate: float) -> Verdict:
    """One member under a null that does not hold it."""
    seen: Mapping[str, Row] = row["seen"]["inverters"]
    weighed = weigh({name: found["statistic"] for name, found in seen.items()}, null)
    order = list(null.inverters)
    works = [seen[name]["strength"]["value"] or 0.0 for name in order]
    choice = choose([str(seen[name]["target"]) for name in order], works, weighed.excess)
    backdoored, _ = verdict(weighed.p_value, false_alarm_rate, len(null.rows), works[choice.shown])
    score = max(weighed.excess)
    return Verdict(row, weighed.p_value, score, backdoored, choice.target, choice.confidence, order[choice.shown])
