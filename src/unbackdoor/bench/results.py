"""Results of cells as they are read back from a folder of runs: typed and checked in one place, kind by kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unbackdoor.base.errors import InputError
from unbackdoor.base.untrusted import as_type, read_json
from unbackdoor.runs.result import Rates, Share
from unbackdoor.triggers import parse_trigger
from unbackdoor.vetting.result import Vetting


@dataclass(frozen=True, kw_only=True)
class _Timed:
    wall_seconds: float
    peak_memory_mib: float


@dataclass(frozen=True)
class Suspect(_Timed):
    """A planted model."""

    trigger: str | None
    target: str
    poisoned: int
    images: int
    steps: int
    lr: float
    seconds: float
    before: Rates
    after: Rates

    def __post_init__(self) -> None:
        if self.trigger is not None:
            _check_attack(self.trigger, self.after)


@dataclass(frozen=True)
class Yardstick(_Timed):
    """A model trained without poison, asked about an attack's trigger."""

    trigger: str
    target: str
    after: Rates

    def __post_init__(self) -> None:
        _check_attack(self.trigger, self.after)


@dataclass(frozen=True)
class Member(Suspect):
    """A member of a zoo."""

    weights: str = ""
    size: int = 0


@dataclass(frozen=True)
class Cure(_Timed):
    """A suspect that a defense has repaired."""

    before: Rates
    after: Rates
    retention: float | None
    images: int
    labels: int
    steps: int
    seconds: float
    rebound: tuple[Rates, ...] | None = None


@dataclass(frozen=True)
class Facts:
    """What a guided inverter tells of its last candidates."""

    candidates: tuple[str, ...] | None = None
    score: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.score is not None and (self.candidates is None or len(self.candidates) != len(self.score)):
            raise ValueError("facts: not as many candidates as scores")


@dataclass(frozen=True)
class Inversion:
    """What an inverter found."""

    target: str
    statistic: float
    strength: Share
    trigger: str
    facts: Facts = field(default_factory=Facts)

    def __post_init__(self) -> None:
        _check_spec(self.trigger)


@dataclass(frozen=True)
class Examination:
    """What all inverters found."""

    inverters: dict[str, Inversion]


@dataclass(frozen=True)
class Recovery:
    """A cure that knew nothing of the attack."""

    before: Rates
    after: Rates
    retention: float | None
    target: str
    alpha: float


def _check_attack(trigger: str, after: Rates) -> None:
    _check_spec(trigger)
    if after.asr is None:
        raise ValueError("after: holds no asr")


def _check_spec(trigger: str) -> None:
    """A spec, not the name of a file that holds one."""
    if trigger.startswith("@"):
        raise ValueError("trigger: a file, where a spec should be")
    parse_trigger(trigger)


KINDS: dict[str, type[Any]] = {
    "suspect": Suspect,
    "yardstick": Yardstick,
    "member": Member,
    "cure": Cure,
    "inversion": Inversion,
    "examination": Examination,
    "recovery": Recovery,
    "vetting": Vetting,
}


def read(path: Path, kind: str) -> dict[str, Any]:
    """A finished cell's result.

    Raises:
        InputError: it is damaged, or of another form than cells of this kind leave.
    """
    try:
        raw = read_json(path)
        as_type(raw, KINDS[kind], str(path))
    except InputError as error:
        raise InputError(f"{error}; remove {path} to run the cell again") from None
    return raw
