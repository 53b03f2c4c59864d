"""From the inverters' statistics to one p-value, against clean models of the same architecture.

The test is full conformal (Vovk et al. 2005, section 2.2): the model under test joins the clean ones, each inverter's
statistic is centred by the pool's median and scaled by how far its upper tail reaches, a model's score is its
largest value over the inverters, and p is the share of the pool that scores at least as high. All models are treated
alike, so that p ≤ ε happens to at most ε of clean models drawn like the null's, whatever the distribution.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unbackdoor.errors import InputError
from unbackdoor.inversion.base import WORKS
from unbackdoor.manifest import run_key
from unbackdoor.weights.files import write_text

LEAST = 0.15  # a statistic is a logarithm of a ratio: a difference of less than 16% is no evidence, however rare
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
        rows: one tuple of statistics per clean model.
        models: what the models were, a line each.
        origin: what the models, and a suspect to be compared with them, come from; None where that played no part.
    """

    architecture: str
    settings: str
    inverters: tuple[str, ...]
    rows: tuple[tuple[float, ...], ...]
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
            json.dumps({"model": model, "statistics": [round(v, 4) for v in row]})
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
    try:
        head, *lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        inverters = tuple(map(str, head["inverters"]))
        rows = tuple(tuple(float(v) for v in line["statistics"]) for line in lines)
        if any(len(row) != len(inverters) for row in rows):
            raise ValueError("a line lacks statistics")
        models = tuple(str(r["model"]) for r in lines)
        origin = Origin(**head["origin"]) if head.get("origin") else None
        return Null(str(head["architecture"]), str(head["settings"]), inverters, rows, models, origin)
    except FileNotFoundError:
        raise InputError(f"{path}: no such null; make one with scan --calibrate") from None
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a null of scan --calibrate ({' '.join(str(error).split())[:100]})") from None


@dataclass(frozen=True)
class Weighed:
    """What the statistics come to.

    Args:
        excess: (I,) by inverter, how far its statistic stands above the pool's median, from `standardised`.
        clean: (n,) the clean models' scores in the same pool, each its largest excess.
    """

    excess: tuple[float, ...]
    clean: tuple[float, ...]

    @property
    def p_value(self) -> float:
        """Share of the pool that scores at least as high; ≥ 1 / (n + 1)."""
        return self.p_of(max(self.excess))

    def p_of(self, excess: float) -> float:
        """The same, had nothing of the model stood out further than `excess`."""
        return (1 + sum(score >= excess for score in self.clean)) / (1 + len(self.clean))


def weigh(statistics: Mapping[str, float], null: Null) -> Weighed:
    """p-value of one model's statistics under a null.

    Raises:
        InputError: an inverter of the null has no statistic here, or the null holds no model.
    """
    missing = [name for name in null.inverters if name not in statistics]
    if missing:
        raise InputError(f"the null was made with the inverter {missing[0]!r}, which did not run; run it too")
    if not null.rows:
        raise InputError("the null holds no clean model; make one with scan --calibrate")
    own = [statistics[name] for name in null.inverters]
    pool = torch.tensor([*null.rows, own], dtype=torch.float64)
    excess = standardised(pool)
    return Weighed(tuple(map(float, excess[-1])), tuple(map(float, excess[:-1].max(dim=1).values)))


def standardised(pool: Tensor) -> Tensor:
    """(M, I) statistics above each column's median, in steps from there to its nine-tenths quantile.

    Only large values speak for a backdoor, and the columns' upper tails differ: in median absolute deviations the one
    with the longest tail among clean models would decide every p-value. A step is `LEAST` at least: where clean models
    hardly differ, as they do not by warps, a trifle must not count as much as a backdoor.
    """
    middle, high = _median(pool), pool.quantile(TAIL, dim=0)
    return (pool - middle) / (high - middle).clamp_min(LEAST)


def _median(values: Tensor) -> Tensor:
    """Column medians, the mean of the two middle ones where there are two; symmetric, unlike torch's."""
    return values.quantile(0.5, dim=0)


def verdict(p_value: float, false_alarm_rate: float, clean_models: int, strength: float) -> tuple[bool | None, str]:
    """Backdoored, clean, or cannot tell, with the reason in a sentence.

    A finding needs both a p-value at or below the rate and a recovered trigger that works on half of the held pictures;
    the second condition can only lower the rate of false alarms.
    """
    smallest = 1 / (clean_models + 1)
    rate = f"{false_alarm_rate:.0%}"
    if smallest > false_alarm_rate:
        needed = math.ceil(1 / false_alarm_rate) - 1
        return None, (
            f"cannot tell: {clean_models} clean models cannot support a false-alarm rate of {rate}; "
            f"calibrate with {needed} or more"
        )
    if p_value <= false_alarm_rate and strength >= WORKS:
        return True, f"a clean model would look like this in at most {p_value:.1%} of cases"
    if p_value <= false_alarm_rate:
        return None, (
            f"cannot tell: the model stands out (p = {p_value:.3f}), but the recovered trigger turns only "
            f"{strength:.0%} of pictures"
        )
    if p_value <= 2 * false_alarm_rate:
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
