"""What a scan returns and leaves in `finding.json`: the one place where it is typed, and checked when it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from unbackdoor.base.errors import InputError
from unbackdoor.base.printable import terminal
from unbackdoor.base.untrusted import read_json
from unbackdoor.runs.result import Result, Share, as_json, optional
from unbackdoor.scan.inverters import inverter_names
from unbackdoor.triggers.base import Trigger
from unbackdoor.triggers.spec import from_spec

NAME = "finding.json"
_MOST_IMAGES, _MOST = 10_000_000, 10_000
NOTHING = Share(None, 0, (0.0, 1.0))
ComparedWith = Literal["shipped", "given", "relatives"]


@dataclass(frozen=True)
class NearText:
    """A class name near to what triggered pictures look like to the model."""

    text: str
    cosine: float


@dataclass(frozen=True)
class Target:
    """The class that a recovered trigger leads to.

    Args:
        confidence: share of what the inverters say that is for it.
        nearest_texts: nearest first.
        from_: `classes` that were given or the data's own, or the `vocabulary`.
    """

    name: str
    confidence: float = 0.0
    nearest_texts: tuple[NearText, ...] = ()
    from_: str = "classes"


@dataclass(frozen=True)
class RecoveredTrigger:
    """The recovered trigger that speaks for the target best.

    Args:
        picture: its file, where the scan was written.
        norm: how large it is, in the inverter's own unit.
        strength: held-out pictures that it turns.
    """

    spec: str
    picture: str | None = field(default=None, kw_only=True)
    inverter: str
    norm: float = field(default=0.0, kw_only=True)
    strength: Share


@dataclass(frozen=True)
class Other:
    """A further class that would be a finding by itself."""

    target: str
    p_value: float = field(default=1.0, kw_only=True)
    inverter: str
    spec: str
    strength: Share = NOTHING


@dataclass(frozen=True)
class InverterLine:
    """What an inverter recovered.

    Args:
        target: class that it names.
        statistic: larger for a backdoor.
        facts: its own.
        excess: steps against clean models; None where there are none.
    """

    name: str
    target: str = ""
    statistic: float = 0.0
    norm: float = 0.0
    strength: Share = NOTHING
    trigger: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    excess: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Alone:
    """How far the foremost class stands out among the classes of the model itself: a weaker reading than a p-value.

    Args:
        target: the class.
        score: votes of the searches for it, each by its lead (`scan/alone.py`).
        limit: a score that none of the clean models exceeded on which it was set.
        inverters: that vote for it.
        false_alarms: other clean models above the limit, where this was measured.
        detected: backdoored models above it.
    """

    target: str
    score: float
    limit: float
    inverters: tuple[str, ...]
    false_alarms: Share
    detected: Share

    @property
    def stands_out(self) -> bool:
        """Whether the score exceeds the limit."""
        return self.score > self.limit


@dataclass(frozen=True)
class Lead:
    """A class that a scan names, the trigger that it recovered for it, and with which inverter."""

    target: str
    trigger: Trigger
    inverter: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Finding(Result):
    """What `scan` says of a model.

    A field with a default may be lacking in a finding of an older version.

    Args:
        model_reference: how the scanned model was named; a stranger's word, not to be followed to the network.
        backdoored: None means that it cannot be told.
        p_value: None where there are no clean models to compare with.
        probability: of a backdoor, where one model in two has one (`scan/probability.py`); None as the p-value, and
            of the clean origin itself.
        false_alarm_rate: that it was made with, in (0, 1).
        clean_models: of the null.
        score: what speaks for the target, in steps (`scan/detection.py`); None as the p-value.
        clean_scores: of each of the clean models, in the same steps; the p-value is made of these.
        compared_with: what these are: `shipped` with the package, `given`, or `relatives` made from the origin; None
            where there are none.
        message: why.
        target: the likeliest, whatever the answer is.
        alone: what the model's own classes say, where there are no clean models to compare with.
        twin_agreement: held-out pictures that the clean twin answers as the suspect does, where there is an origin.
        others: of a backdoored model.
        inverters: those that ran.
        origin: the clean model that it was compared with, as it was named.
        weighed: inverters that the p-value rests on.
        left_out: what a budget left no time for: inverters, and how many of the clean relatives.
        images: how many pictures the scan drew.
        weights: hash of the scanned model's.
        report: the page, where the scan was written.
    """

    file: ClassVar[str] = NAME
    verb: Literal["scan"] = "scan"
    model_reference: str
    backdoored: bool | None
    p_value: float | None = None
    probability: float | None = None
    false_alarm_rate: float
    clean_models: int = 0
    score: float | None = None
    clean_scores: tuple[float, ...] = ()
    compared_with: ComparedWith | None = None
    message: str
    target: Target
    alone: Alone | None = None
    twin_agreement: Share | None = None
    trigger: RecoveredTrigger
    others: tuple[Other, ...] = ()
    inverters: tuple[InverterLine, ...]
    origin: str | None = None
    weighed: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    data: str = ""
    images: int
    seed: int = 0
    weights: str
    seconds: float = 0.0
    report: str | None = optional()

    def check(self) -> None:
        """Refuse numbers, names and specs that no scan of ours writes.

        Raises:
            InputError: there is one.
        """
        if not 1 <= self.images <= _MOST_IMAGES:
            raise InputError(f"images {self.images}: must lie in 1 to {_MOST_IMAGES:,}")
        if not 0 < self.false_alarm_rate < 1:
            raise InputError(f"false_alarm_rate {self.false_alarm_rate}: must lie in (0, 1)")
        if len(self.clean_scores) not in (0, self.clean_models):
            raise InputError(f"clean_scores: {len(self.clean_scores)} scores of {self.clean_models} clean models")
        if not all(map(math.isfinite, (*self.clean_scores, self.score or 0.0))):
            raise InputError("clean_scores or score: holds what is no finite number")
        for name in ("message", "model_reference", "origin", "weights"):
            text = getattr(self, name) or ""
            if terminal(text) != text:
                raise InputError(f"{name}: holds characters that cannot be shown")
        if len(self.left_out) > _MOST or any(terminal(text) != text for text in self.left_out):
            raise InputError("left_out: too long, or holds characters that cannot be shown")
        if not self.inverters or len(self.others) > _MOST:
            raise InputError("names no inverter" if not self.inverters else f"names {len(self.others)} other classes")
        ran = [row.name for row in self.inverters]
        odd = sorted({*ran, self.trigger.inverter, *(row.inverter for row in self.others)} - set(inverter_names()))
        if odd:
            raise InputError(f"unknown inverter {odd[0][:60]!r}; there are {', '.join(inverter_names())}")
        if len(set(ran)) != len(ran):
            raise InputError("names an inverter twice")
        # Specs are parsed here, so that nothing is computed before a bad one is refused.
        _ = self.leads

    @property
    def leads(self) -> tuple[Lead, ...]:
        """The likely target first, then the others."""
        return (
            Lead(self.target.name, from_spec(self.trigger.spec), self.trigger.inverter),
            *(Lead(row.target, from_spec(row.spec), row.inverter) for row in self.others),
        )

    @classmethod
    def fitted(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """The JSON, `from` by the name of its field."""
        target = raw.get("target")
        if not isinstance(target, dict) or "from" not in target:
            return raw
        return {**raw, "target": {**target, "from_": target["from"]}}

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
    where = "the finding"
    try:
        if isinstance(finding, Mapping):
            raw = as_json(finding, where, "scan")
        else:
            path = Path(finding)
            path = path / NAME if path.is_dir() else path
            raw, where = read_json(path), str(path)
    except InputError as error:
        raise InputError(f"{error}; give the {NAME} of a scan with --out") from None
    try:
        return Finding.read(raw, where), raw
    except InputError as error:
        raise InputError(f"not a finding: {error}; give the {NAME} of a scan with --out") from None
