"""What `bench` and `zoo` return."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from unbackdoor.metrics.auroc import Auroc
from unbackdoor.runs.result import Result, Share, optional


@dataclass(frozen=True, eq=False, kw_only=True)
class GridResult(Result):
    """What a recipe of `bench` has come to.

    Args:
        cells: of the recipe.
        finished: cells.
        failed: names and error of each that failed.
        missing: names of each that was not run.
        tables: their file.
        results: file with a line for each finished cell.
        addresses: different cells.
    """

    verb: Literal["bench"] = "bench"
    recipe: str
    cells: int
    finished: int
    failed: tuple[dict[str, Any], ...]
    missing: tuple[dict[str, Any], ...]
    tables: str
    results: str
    addresses: int
    seconds: float


@dataclass(frozen=True)
class Detection:
    """How well one family of attacks is detected.

    Args:
        family: its name, or `all`.
        auroc: against all clean members.
        found: of the members whose attack took.
        undecided: of these.
        not_taken: members whose attack did not take.
        right_target: of those found.
    """

    family: str
    auroc: Auroc | None
    found: Share
    undecided: int
    not_taken: int
    right_target: Share


@dataclass(frozen=True)
class FalseAlarms:
    """Clean members called backdoored, and those whose p-value alone lies at or below the stated rate."""

    stated: float
    called: Share
    p_value: Share


@dataclass(frozen=True)
class Spread:
    """Of some values; none between two of them is made up."""

    median: float
    p90: float
    largest: float


@dataclass(frozen=True)
class FoundCures:
    """Cures of members that were found: ASR after, and mean retention."""

    n: int
    asr: Spread | None
    retention: float | None


@dataclass(frozen=True)
class CleanCures:
    """Cures of clean members: mean retention of all, and of a cure of those alone that are called backdoored."""

    n: int
    retention: float | None
    as_judged: float | None


@dataclass(frozen=True)
class Cures:
    """What cures without knowledge of the attack came to."""

    backdoored: FoundCures
    clean: CleanCures


@dataclass(frozen=True)
class MemberLine:
    """A member of a zoo as it was judged, and cured where it was."""

    number: int
    family: str
    data: str
    regime: str
    p_value: float
    score: float
    backdoored: bool | None
    target: str
    true_target: str | None
    shown: str
    others: tuple[str, ...]
    statistics: dict[str, float]
    targets: dict[str, str]
    asr: float | None
    cured: dict[str, Any] | None


@dataclass(frozen=True)
class Half:
    """One half of a zoo."""

    detection: tuple[Detection, ...]
    false_alarms: FalseAlarms
    cures: Cures
    members: tuple[MemberLine, ...]


@dataclass(frozen=True)
class FailedMember:
    """A cell of a zoo that failed, and why."""

    address: str
    error: str


@dataclass(frozen=True, eq=False, kw_only=True)
class ZooResult(Result):
    """What `zoo` has come to.

    Args:
        members: of the recipe; of these so many were `made` and `examined`.
        failed: cells.
        halves: by name.
        null: file that members were judged under, or `shipped`.
        tables: their file.
    """

    verb: Literal["zoo"] = "zoo"
    recipe: str
    members: int
    made: int
    examined: int
    failed: tuple[FailedMember, ...]
    halves: dict[str, Half] = field(default_factory=dict)
    null: str | None = optional()
    seconds: float
    tables: str | None = optional()
