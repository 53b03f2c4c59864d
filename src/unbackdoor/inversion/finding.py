"""What a scan leaves in `finding.json`, read back: the one place where it is typed and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unbackdoor.errors import InputError, first_line
from unbackdoor.inversion import inverter_names
from unbackdoor.printable import terminal
from unbackdoor.triggers.base import Trigger
from unbackdoor.triggers.spec import from_spec
from unbackdoor.untrusted import as_type, parse_json, read_json

NAME = "finding.json"
_MOST_IMAGES, _MOST = 10_000_000, 10_000


@dataclass(frozen=True)
class Strength:
    """Share of held-out pictures that a trigger turned, None where none could be counted."""

    value: float | None


@dataclass(frozen=True)
class Shown:
    """The recovered trigger that a finding shows."""

    spec: str
    inverter: str
    strength: Strength


@dataclass(frozen=True)
class Target:
    """The class that it leads to."""

    name: str


@dataclass(frozen=True)
class Other:
    """A further class that would be a finding by itself."""

    target: str
    spec: str
    inverter: str


@dataclass(frozen=True)
class Ran:
    """An inverter that took part."""

    name: str


@dataclass(frozen=True)
class Lead:
    """A class that a scan names, the trigger that it recovered for it, and with which inverter."""

    target: str
    trigger: Trigger
    inverter: str


@dataclass(frozen=True)
class Finding:
    """Of a finding what a cure uses.

    Args:
        weights: hash of the scanned model's.
        model_reference: how the scanned model was named; a stranger's word, not to be followed to the network.
        backdoored: None means that it cannot be told.
        message: why.
        images: how many pictures the scan drew.
        false_alarm_rate: that it was made with, in (0, 1).
        inverters: those that ran.
        origin: the clean model that it was compared with, as it was named.
        others: of a backdoored model; findings of older versions name none.
    """

    weights: str
    model_reference: str
    backdoored: bool | None
    message: str
    images: int
    false_alarm_rate: float
    target: Target
    trigger: Shown
    inverters: tuple[Ran, ...]
    origin: str | None = None
    others: tuple[Other, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.images <= _MOST_IMAGES:
            raise ValueError(f"images {self.images}: must lie in 1 to {_MOST_IMAGES:,}")
        if not 0 < self.false_alarm_rate < 1:
            raise ValueError(f"false_alarm_rate {self.false_alarm_rate}: must lie in (0, 1)")
        for name in ("message", "model_reference", "origin", "weights"):
            text = getattr(self, name) or ""
            if terminal(text) != text:
                raise ValueError(f"{name}: holds characters that cannot be shown")
        if not self.inverters or len(self.others) > _MOST:
            raise ValueError("names no inverter" if not self.inverters else f"names {len(self.others)} other classes")
        ran = [row.name for row in self.inverters]
        odd = sorted({*ran, self.trigger.inverter, *(row.inverter for row in self.others)} - set(inverter_names()))
        if odd:
            raise ValueError(f"unknown inverter {odd[0][:60]!r}; there are {', '.join(inverter_names())}")
        if len(set(ran)) != len(ran):
            raise ValueError("names an inverter twice")
        # Specs are parsed here, so that nothing is computed before a bad one is refused.
        _ = self.leads

    @property
    def leads(self) -> tuple[Lead, ...]:
        """The likely target first, then the others."""
        return (
            Lead(self.target.name, from_spec(self.trigger.spec), self.trigger.inverter),
            *(Lead(row.target, from_spec(row.spec), row.inverter) for row in self.others),
        )

    def check_classes(self, names: Sequence[str], where: str) -> None:
        """Refuse a finding whose targets are no classes here.

        Raises:
            InputError: one is not among `names`.
        """
        known = set(names)
        for target in (self.target.name, *(row.target for row in self.others)):
            if target not in known:
                few = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
                raise InputError(
                    f"the finding's target {target[:60]!r} is no class of {where} ({few}); give the classes that the "
                    "model was scanned with"
                )


def read_finding(finding: str | Path | Mapping[str, Any]) -> tuple[Finding, dict[str, Any]]:
    """A finding and the whole JSON that it comes from.

    Args:
        finding: `finding.json`, the folder that holds it, or what `scan` returned.

    Raises:
        InputError: not a finding; the line names the field that is missing, or of another type or size.
    """
    if isinstance(finding, Mapping):
        where = "the finding"
        try:
            text = json.dumps(finding, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"{where}: not what scan returned ({first_line(error)})") from None
        raw = parse_json(text, where)
    else:
        path = Path(finding)
        path = path / NAME if path.is_dir() else path
        where = str(path)
        try:
            raw = read_json(path)
        except InputError as error:
            raise InputError(f"{error}; give the {NAME} of a scan with --out") from None
    try:
        return as_type(raw, Finding, where), raw
    except InputError as error:
        raise InputError(f"not a finding: {error}; give the {NAME} of a scan with --out") from None
