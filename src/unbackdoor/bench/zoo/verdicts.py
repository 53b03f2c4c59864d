"""What scanning a zoo comes to: the null of one half's clean members, and the other members' p-values under it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unbackdoor.bench.zoo.recipe import CLEAN
from unbackdoor.scan.detection import Null, Origin, ranked
from unbackdoor.scan.judgement import Judgement, Say, judge

TOOK = 0.5  # attack success from which a poisoned member counts as backdoored
Row = dict[str, Any]  # names of a member beside its examination under "seen" and its card under "card"


@dataclass(frozen=True)
class Verdict:
    """A member as a scan would judge it, beside what it is."""

    row: Row
    judgement: Judgement[str]

    @property
    def score(self) -> float:
        """What AUROC orders by."""
        assert self.judgement.score is not None  # a zoo judges under a null
        return self.judgement.score

    @property
    def p_value(self) -> float:
        """Under the null of the zoo's first half."""
        assert self.judgement.p_value is not None
        return self.judgement.p_value

    @property
    def truth(self) -> bool | None:
        """Whether the member is backdoored; None where it was poisoned and the attack works on less than half."""
        if self.row["family"] == CLEAN:
            return False
        return True if self.row["card"]["after"]["asr"]["value"] >= TOOK else None

    @property
    def right_target(self) -> bool:
        """Whether the target is the attacker's."""
        return bool(self.judgement.target == self.row["card"]["target"])


def make_null(rows: Sequence[Row], architecture: str, settings: str, origin: Origin | None = None) -> Null:
    """The null of the clean members among `rows`."""
    clean = [row for row in rows if row["family"] == CLEAN]
    names = tuple(clean[0]["seen"]["inverters"]) if clean else ()
    statistics = tuple(tuple(ranked(scores_of(row["seen"]["inverters"][n])) for n in names) for row in clean)
    members = tuple(f"{row['half']} {row['number']}: {row['data']}, {row['card']['steps']} steps" for row in clean)
    return Null(architecture, settings, names, statistics, members, origin)


def scores_of(inversion: Row) -> dict[str, float]:
    """An inverter's statistics by class, from what it left of a member."""
    facts = inversion.get("facts", {})
    if "score" not in facts:
        return {str(inversion["target"]): inversion["statistic"]}
    return dict(zip(facts["candidates"], facts["score"], strict=True))


def verdict_on(row: Row, null: Null, false_alarm_rate: float) -> Verdict:
    """One member under a null that does not hold it."""
    opinions = {
        name: Say(scores_of(inversion), inversion["strength"]["value"] or 0.0)
        for name, inversion in row["seen"]["inverters"].items()
    }
    return Verdict(row, judge(opinions, null, false_alarm_rate))


def judge_rows(
    rows: Sequence[Row],
    halves: Sequence[str],
    architecture: str,
    settings: str,
    false_alarm_rate: float,
    origin: Origin | None = None,
    other: Null | None = None,
) -> tuple[Null, dict[str, list[Verdict]]]:
    """The null of the first half's clean members, and every examined member judged, by half.

    A member of the first half is judged under the null of all clean ones but itself.

    Args:
        rows: examined members; those of the first half in the order of the null's lines.
        architecture, settings, origin: the null's own.
        other: judge the other halves under this null instead.
    """
    own = [row for row in rows if row["half"] == halves[0]]
    null = make_null(own, architecture, settings, origin)
    verdicts: dict[str, list[Verdict]] = {}
    for half in halves:
        verdicts[half] = []
        for row in rows:
            if row["half"] == half:
                inside = half == halves[0]
                under = make_null([r for r in own if r is not row], architecture, settings) if inside else other or null
                if under.rows:
                    verdicts[half].append(verdict_on(row, under, false_alarm_rate))
    return null, verdicts
