"""Clean accuracy, attack success rate and triggered accuracy; functional and streaming.

Definitions, with predictions ŷ, labels y and the attacker's target t:

* CA: share of clean images with ŷ = y.
* ASR: share of triggered images with ŷ = t, among those with y ≠ t. Images whose true class is the target are left
  out: answering t for them is no attack.
* Triggered accuracy: share of triggered images with ŷ = y, over the same images as ASR.

`counting` reproduces how two peers count, for comparison with their tables only: `par` counts every triggered
image, target class included, in ASR (PAR relabels the whole set to the target); `cleanclip` leaves target-class
images out of the numerator but divides by all images (its linear and fine-tune evaluators).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unbackdoor.metrics.rates import Rate

if TYPE_CHECKING:
    from torch import Tensor

COUNTINGS = ("standard", "cleanclip", "par")


@dataclass(frozen=True)
class BackdoorRates:
    """The three rates; `asr` and `triggered_accuracy` are None without a trigger."""

    ca: Rate
    asr: Rate | None = None
    triggered_accuracy: Rate | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON form: one object per rate with value, n and interval; rates not measured are left out."""
        rates = {"ca": self.ca, "asr": self.asr, "triggered_accuracy": self.triggered_accuracy}
        return {name: rate.as_dict() for name, rate in rates.items() if rate is not None}


@dataclass(frozen=True)
class AlphaPoint:
    """CA, ASR and, where it was kept, triggered accuracy measured at one α."""

    alpha: float
    ca: Rate
    asr: Rate
    triggered_accuracy: Rate | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON form; what was not measured is left out."""
        rates = {"ca": self.ca, "asr": self.asr, "triggered_accuracy": self.triggered_accuracy}
        return {"alpha": self.alpha, **{name: rate.as_dict() for name, rate in rates.items() if rate is not None}}


def clean_accuracy(predictions: Tensor, labels: Tensor) -> Rate:
    """CA of predicted classes (N,) against labels (N,); images with label −1 (unknown) do not count."""
    known = labels >= 0
    return Rate(int(((predictions == labels) & known).sum()), int(known.sum()))


def attack_success_rate(predictions: Tensor, labels: Tensor, target: int, counting: str = "standard") -> Rate:
    """ASR of predictions (N,) on triggered images with true labels (N,).

    Raises:
        ValueError: unknown counting.
    """
    if counting not in COUNTINGS:
        raise ValueError(f"counting {counting!r} is none of {', '.join(COUNTINGS)}")
    other = labels != target
    hit = predictions == target
    if counting == "par":
        return Rate(int(hit.sum()), len(labels))
    return Rate(int((hit & other).sum()), len(labels) if counting == "cleanclip" else int(other.sum()))


def triggered_accuracy(predictions: Tensor, labels: Tensor, target: int) -> Rate:
    """Share of triggered images answered with their true class, target-class and unlabelled images left out."""
    counted = (labels != target) & (labels >= 0)
    return Rate(int(((predictions == labels) & counted).sum()), int(counted.sum()))


class BackdoorMeter:
    """Streaming form: feed batches, read the three rates at the end. Meters add up (`a + b`) across processes."""

    def __init__(self, target: int | None = None, counting: str = "standard") -> None:
        self.target, self.counting = target, counting
        self._hits = {"ca": 0, "asr": 0, "triggered_accuracy": 0}
        self._n = dict.fromkeys(self._hits, 0)

    def update(self, labels: Tensor, clean: Tensor, triggered: Tensor | None = None) -> None:
        """Count a batch: true labels (B,), predictions on clean and on triggered images (B,)."""
        self._add("ca", clean_accuracy(clean, labels))
        if self.target is not None and triggered is not None:
            self._add("asr", attack_success_rate(triggered, labels, self.target, self.counting))
            self._add("triggered_accuracy", triggered_accuracy(triggered, labels, self.target))

    def _add(self, name: str, rate: Rate) -> None:
        self._hits[name] += rate.hits
        self._n[name] += rate.n

    def __add__(self, other: BackdoorMeter) -> BackdoorMeter:
        total = BackdoorMeter(self.target, self.counting)
        for part in (self, other):
            for name in total._hits:
                total._hits[name] += part._hits[name]
                total._n[name] += part._n[name]
        return total

    def compute(self) -> BackdoorRates:
        """The rates so far."""
        rate = {name: Rate(self._hits[name], self._n[name]) for name in self._hits}
        if self.target is None:
            return BackdoorRates(rate["ca"])
        return BackdoorRates(rate["ca"], rate["asr"], rate["triggered_accuracy"])
