"""From the inverters' statistics to one p-value, against clean models of the same architecture.

The test is full conformal (Vovk et al. 2005, section 2.2): the model under test joins the clean ones, each inverter's
statistic is centred by the pool's median and scaled by how far its upper tail reaches, what speaks for a class is added
up over the inverters, a model's score is that of its foremost class, and p is the share of the pool that scores at
least as high. All models are treated alike, so that p ≤ ε happens to at most ε of clean models drawn like the null's,
whatever the distribution.

Sums over classes, as a backdoor shows in several inverters at once and always by the same class, while what nature or
chance makes cheap differs from one to the next.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic

import torch
from torch import Tensor

from unbackdoor.base.disk import write_text
from unbackdoor.base.errors import InputError
from unbackdoor.base.manifest import run_key
from unbackdoor.base.untrusted import as_type, is_there, read_json_lines
from unbackdoor.scan.inverters import inverter_names
from unbackdoor.scan.inverters.base import WORKS
from unbackdoor.scan.targets import Label

LEAST = 0.15  # a statistic is a logarithm of a ratio: a difference of less than 16% is no evidence, however rare
Scores = tuple[tuple[str, float], ...]  # one inverter's statistics of a model's classes, the largest first
NEAR = 2.0  # times the false-alarm rate, up to which a p-value is too near to it to tell
_NULL_BYTES, _LARGEST = 32 << 20, 1e6  # of a null's file, and of a statistic, which is a logarithm
TAIL = 0.9  # so that one or two backdoored models among twenty do not set the scale


@dataclass(frozen=True)
class Origin:
    """The clean model that the statistics are measured against: how to open it, and the hash of its weights."""

    reference: str
    weights: str


@dataclass(frozen=True)
class Null:
    """What clean models score.

    Args:
        architecture: fingerprint of the models' tensors, from `fingerprint`.
        settings: fingerprint of the inverters and their budget.
        inverters: names of the columns.
        rows: of each clean model, each inverter's statistics by class.
        models: what the models were, a line each.
        origin: what the models, and a suspect to be compared with them, come from; None where that played no part.
    """

    architecture: str
    settings: str
    inverters: tuple[str, ...]
    rows: tuple[tuple[Scores, ...], ...]
    models: tuple[str, ...]
    origin: Origin | None = None

    def save(self, path: Path) -> None:
        """Write as JSON, a line per model."""
        head = {
            "architecture": self.architecture,
            "settings": self.settings,
            "inverters": list(self.inverters),
            "origin": None if self.origin is None else asdict(self.origin),
        }
        lines = [
            json.dumps({"model": model, "statistics": [{c: round(v, 4) for c, v in scores} for scores in row]})
            for model, row in zip(self.models, self.rows, strict=True)
        ]
        write_text(path, "\n".join([json.dumps(head), *lines]) + "\n")

    def select(self, names: Sequence[str]) -> Null:
        """The same models by some of the inverters, in the null's own order.

        Raises:
            InputError: a name that is no inverter of the null, or no name.
        """
        odd = [name for name in names if name not in self.inverters]
        if odd or not names:
            raise InputError(f"the null has no inverter {odd[0]!r}" if odd else "no inverter is left to weigh")
        places = [i for i, name in enumerate(self.inverters) if name in names]
        return replace(
            self,
            inverters=tuple(self.inverters[i] for i in places),
            rows=tuple(tuple(row[i] for i in places) for row in self.rows),
        )


def read_null(path: Path) -> Null:
    """Read what `Null.save` wrote.

    Raises:
        InputError: missing, or not such a file.
    """
    if not is_there(path):
        raise InputError(f"{path}: no such null; make one with scan --calibrate")
    try:
        values = list(read_json_lines(path, _NULL_BYTES))
        if not values:
            raise InputError(f"{path}: is empty")
        head = as_type(values[0], _Head, f"{path}, line 1")
        lines = [as_type(v, _Line, f"{path}, model {i}") for i, v in enumerate(values[1:], 1)]
        if not lines:
            raise InputError(f"{path}: holds no clean model; make one with scan --calibrate")
        rows = tuple(tuple(_checked(line, head, f"{path}, model {i}")) for i, line in enumerate(lines, 1))
    except InputError as error:
        raise InputError(f"not a null of scan --calibrate: {error}") from None
    return Null(head.architecture, head.settings, head.inverters, rows, tuple(r.model for r in lines), head.origin)


@dataclass(frozen=True)
class _Head:
    """A null's first line."""

    architecture: str
    settings: str
    inverters: tuple[str, ...]
    origin: Origin | None = None

    def __post_init__(self) -> None:
        odd = [name for name in self.inverters if name not in inverter_names()]
        if odd or not self.inverters:
            raise ValueError(f"unknown inverter {odd[0][:60]!r}" if odd else "names no inverter")
        if len(set(self.inverters)) < len(self.inverters):
            raise ValueError("names an inverter twice")


@dataclass(frozen=True)
class _Line:
    """A null's line of one clean model."""

    model: str
    statistics: tuple[dict[str, float], ...]


def _checked(line: _Line, head: _Head, where: str) -> Iterator[Scores]:
    if len(line.statistics) != len(head.inverters):
        raise InputError(f"{where}: statistics of {len(line.statistics)} inverters, not of {len(head.inverters)}")
    for name, scores in zip(head.inverters, line.statistics, strict=True):
        if not scores or any(not abs(v) <= _LARGEST for v in scores.values()):
            raise InputError(f"{where}: {name} has no statistic, or one beyond ±{_LARGEST:g}")
        yield ranked(scores)


def ranked(scores: Mapping[str, float]) -> Scores:
    """Statistics by class as a null keeps them, the largest first."""
    return tuple(sorted(((str(c), float(v)) for c, v in scores.items()), key=lambda pair: -pair[1]))


@dataclass(frozen=True)
class Weighed(Generic[Label]):
    """What the statistics come to.

    Args:
        excess: by inverter, how far its largest statistic stands above the pool's median, in steps of `scale`.
        totals: what speaks for each class that an inverter names, from `totals`.
        clean: (n,) the clean models' scores in the same pool, each its largest total.
    """

    excess: Mapping[str, float]
    totals: Mapping[Label, float]
    clean: tuple[float, ...]

    @property
    def p_value(self) -> float:
        """Share of the pool that scores at least as high; ≥ 1 / (n + 1)."""
        return self.p_of(max(self.totals.values()))

    def p_of(self, total: float) -> float:
        """The same, had no class of the model more to speak for it than `total`."""
        return (1 + sum(score >= total for score in self.clean)) / (1 + len(self.clean))


def weigh(scores: Mapping[str, Mapping[Label, float]], null: Null) -> Weighed[Label]:
    """p-value of one model under a null, from each inverter's statistics by class.

    Raises:
        InputError: an inverter of the null has no statistic here, or the null holds no model.
    """
    missing = [name for name in null.inverters if not scores.get(name)]
    if missing:
        raise InputError(f"the null was made with the inverter {missing[0]!r}, which did not run; run it too")
    if not null.rows:
        raise InputError("the null holds no clean model; make one with scan --calibrate")
    own = [scores[name] for name in null.inverters]
    clean = [[dict(pairs) for pairs in row] for row in null.rows]
    largest = [[max(each.values()) for each in model] for model in clean] + [[max(each.values()) for each in own]]
    pool = torch.tensor(largest, dtype=torch.float64)
    middle, step = scale(pool)
    excess = zip(null.inverters, ((pool[-1] - middle) / step).tolist(), strict=True)
    return Weighed(
        dict(excess),
        totals(own, middle, step),
        tuple(max(totals(model, middle, step).values()) for model in clean),
    )


def totals(model: Sequence[Mapping[Label, float]], middle: Tensor, step: Tensor) -> dict[Label, float]:
    """What speaks for each class that stands foremost in one of the I inverters: the sum of what stands above 0.

    Where nothing does, it is the largest, so that models with nothing to show still have an order.

    Args:
        model: (I,) statistics by class.
        middle, step: (I,) from `scale`.
    """
    sums = {}
    for label in dict.fromkeys(max(scores, key=lambda c: scores[c]) for scores in model):
        stands = [
            (scores[label] - float(m)) / float(s)
            for scores, m, s in zip(model, middle, step, strict=True)
            if label in scores
        ]
        sums[label] = sum(max(0.0, v) for v in stands) + min(0.0, max(stands))
    return sums


def scale(pool: Tensor) -> tuple[Tensor, Tensor]:
    """Medians of the columns (M, I) → (I,), and how far it is from there to their nine-tenths quantiles.

    Only large values speak for a backdoor, and the columns' upper tails differ: in median absolute deviations the one
    with the longest tail among clean models would decide every p-value. A step is `LEAST` at least: where clean models
    hardly differ, as they do not by warps, a trifle must not count as much as a backdoor.
    """
    middle, high = _median(pool), pool.quantile(TAIL, dim=0)
    return middle, (high - middle).clamp_min(LEAST)


def _median(values: Tensor) -> Tensor:
    """Column medians, the mean of the two middle ones where there are two; symmetric, unlike torch's."""
    return values.quantile(0.5, dim=0)


def needed(false_alarm_rate: float) -> int:
    """Clean models without which no p-value could be as small as the rate."""
    return math.ceil(1 / false_alarm_rate) - 1


def exceeding(p_value: float, clean_models: int) -> int:
    """How many of the clean models score as high, of which the p-value is made."""
    return round(p_value * (clean_models + 1)) - 1


def settled(as_high: int, false_alarm_rate: float) -> bool:
    """Whether so many clean models score as high that the fewest which support the rate would leave no doubt."""
    return (1 + as_high) / (needed(false_alarm_rate) + 1) > NEAR * false_alarm_rate


def verdict(p_value: float, false_alarm_rate: float, clean_models: int, strength: float) -> tuple[bool | None, str]:
    """Backdoored, clean, or cannot tell, with the reason in a sentence.

    A finding needs both a p-value at or below the rate and a recovered trigger that works on half of the held pictures;
    the second condition can only lower the rate of false alarms.
    """
    smallest = 1 / (clean_models + 1)
    rate = f"{false_alarm_rate:.0%}"
    if smallest > false_alarm_rate:
        as_high = exceeding(p_value, clean_models)
        if settled(as_high, false_alarm_rate):
            return False, (
                f"nothing stands out: {as_high} of {clean_models} clean models score as high, so that no further ones "
                "could make this a finding"
            )
        return None, (
            f"cannot tell: {clean_models} clean models cannot support a false-alarm rate of {rate}; "
            f"calibrate with {needed(false_alarm_rate)} or more"
        )
    if p_value <= false_alarm_rate and strength >= WORKS:
        return True, f"a clean model would look like this in at most {p_value:.1%} of cases"
    if p_value <= false_alarm_rate:
        return None, (
            f"cannot tell: the model stands out (p = {p_value:.3f}), but the recovered trigger turns only "
            f"{strength:.0%} of pictures"
        )
    if p_value <= NEAR * false_alarm_rate:
        return (
            None,
            f"cannot tell: p = {p_value:.3f} is near the limit of {false_alarm_rate:g}; scan with more pictures",
        )
    return False, f"nothing stands out against {clean_models} clean models (p = {p_value:.2f})"


def fingerprint(*parts: Any) -> str:
    """Sixteen hex digits over anything that JSON can hold."""
    return run_key(*parts)[:16]


def architecture(state: Mapping[str, Tensor]) -> str:
    """Fingerprint of a model's tensor names and shapes."""
    return fingerprint(sorted((name, list(t.shape)) for name, t in state.items()))
