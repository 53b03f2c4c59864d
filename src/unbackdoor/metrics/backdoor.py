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

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

from unbackdoor.metrics.rates import Rate

if TYPE_CHECKING:
    from torch import Tensor

COUNTINGS = ("standard", "cleanclip", "par")


class ClassCounts(NamedTuple):
    """What images of one class are answered with.

    Args:
        n: images.
        correct: of these, answered with their class as they are.
        triggered_correct: answered with it when triggered.
        moved: answered with the target when triggered.
    """

    n: int = 0
    correct: int = 0
    triggered_correct: int = 0
    moved: int = 0


@dataclass(frozen=True)
class BackdoorRates:
    """The three rates; `asr` and `triggered_accuracy` are None without a trigger.

    Args:
        by_class: counts by index of the true class, up to the last that has an image; unlabelled images are in none.
    """

    ca: Rate
    asr: Rate | None = None
    triggered_accuracy: Rate | None = None
    by_class: tuple[ClassCounts, ...] = field(default=(), kw_only=True)

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


def class_counts(labels: Tensor, clean: Tensor, triggered: Tensor | None, target: int | None) -> list[ClassCounts]:
    """Counts by class of labels (N,) and of predictions (N,) on clean and on triggered images; label −1 is left out."""
    known = labels >= 0
    hits = [known, known & (clean == labels)]
    if triggered is not None and target is not None:
        hits += [known & (triggered == labels), known & (triggered == target)]
    size = int(labels.max()) + 1 if known.any() else 0
    columns = [labels[which].bincount(minlength=size).tolist() for which in hits]
    return [ClassCounts(*row) for row in zip(*columns, strict=True)]


def add_classes(one: Sequence[ClassCounts], other: Sequence[ClassCounts]) -> list[ClassCounts]:
    """Counts of two parts together; the parts may end at different classes."""
    pairs = zip_longest(one, other, fillvalue=ClassCounts())
    return [ClassCounts(*map(sum, zip(a, b, strict=True))) for a, b in pairs]


class BackdoorMeter:
    """Streaming form: feed batches, read the three rates at the end. Meters add up (`a + b`) across processes."""

    def __init__(self, target: int | None = None, counting: str = "standard") -> None:
        self.target, self.counting = target, counting
        self._hits = {"ca": 0, "asr": 0, "triggered_accuracy": 0}
        self._n = dict.fromkeys(self._hits, 0)
        self._classes: list[ClassCounts] = []

    def update(self, labels: Tensor, clean: Tensor, triggered: Tensor | None = None) -> None:
        """Count a batch: true labels (B,), predictions on clean and on triggered images (B,)."""
        self._add("ca", clean_accuracy(clean, labels))
        if self.target is not None and triggered is not None:
            self._add("asr", attack_success_rate(triggered, labels, self.target, self.counting))
            self._add("triggered_accuracy", triggered_accuracy(triggered, labels, self.target))
        self._classes = add_classes(self._classes, class_counts(labels, clean, triggered, self.target))

    def _add(self, name: str, rate: Rate) -> None:
        self._hits[name] += rate.hits
        self._n[name] += rate.n

    def __add__(self, other: BackdoorMeter) -> BackdoorMeter:
        total = BackdoorMeter(self.target, self.counting)
        for part in (self, other):
            for name in total._hits:
                total._hits[name] += part._hits[name]
                total._n[name] += part._n[name]
            total._classes = add_classes(total._classes, part._classes)
        return total

    def compute(self) -> BackdoorRates:
        """The rates so far."""
        rate = {name: Rate(self._hits[name], self._n[name]) for name in self._hits}
        if self.target is None:
            return BackdoorRates(rate["ca"], by_class=tuple(self._classes))
        return BackdoorRates(rate["ca"], rate["asr"], rate["triggered_accuracy"], by_class=tuple(self._classes))
