"""Choosing the scaling coefficient α on held-out images, with the weights stepped in place.

The rule: the smallest α whose ASR is at most `tolerance`, under a floor on CA (a share of the suspect's own CA).
When no α satisfies both, the point with the smallest excess (`weight` times ASR above tolerance, plus CA below the
floor) is taken and the caller is told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from unbackdoor.base.errors import InputError
from unbackdoor.metrics.backdoor import AlphaPoint, BackdoorRates
from unbackdoor.runs.settings import LATER, check_ranges, setting


def parse_grid(text: str) -> tuple[float, ...]:
    """`0.5,1,2` → (0.5, 1.0, 2.0).

    Raises:
        InputError: not numbers, or none.
    """
    try:
        grid = tuple(float(part) for part in text.replace(" ", "").split(",") if part)
    except ValueError:
        raise InputError(f"α grid {text!r}: expected numbers separated by commas, such as 0.5,1,2") from None
    if not grid:
        raise InputError("the α grid is empty; give at least one value, such as 0.5,1,2")
    return grid


@dataclass(frozen=True)
class AlphaConfig:
    """Settings of the search.

    Args:
        tolerance: largest ASR on the validation images that counts as cured. The smallest α that passes there passes
            by a little luck, so that ASR on other images comes out somewhat higher.
        floor: smallest share of the suspect's validation CA to keep.
        grid: α values to try in ascending order; None searches by itself: it doubles from `first` until the
            backdoor is gone, then bisects between the last failure and the first success.
        first: the first α of the self-made search.
        largest: no α above this is tried.
        smallest: bisection goes no lower.
        least: without a grid, no α between 0 and this is tried.
        resolution: bisection stops when the bracket is narrower than this share of its upper end.
        weight: of a point of ASR against one of CA, where no α satisfies both limits.
        reserve: the α found without a grid is raised by this factor, or by as many quarters of the raise as the floor
            permits; 1 leaves it.
        regain: α values to go on to without a grid, where triggered images get more of their right answers back there
            than clean ones lose; an answer of a clean image counts `CLEAN_WEIGHT` times.
        longer: where no α satisfies both limits, the vector is taken once more in so many times the steps; 1 leaves it.
    """

    tolerance: float = setting(0.005, "Largest ASR that counts as cured.", low=0, high=1, below=True)
    floor: float = setting(
        0.95,
        "Share of the suspect's CA to keep, of its answers with --scan; without labelled images for choosing α at most "
        "0.8 of its answers.  [default: 0.95, 0.88 with --scan]",
        low=0,
        high=1,
        above=True,
        quiet=True,
    )
    grid: tuple[float, ...] | None = setting(
        None,
        "Values for the search, such as 0.5,1,2; by default it finds its own.",
        flag="--alpha-grid",
        parse=parse_grid,
    )
    first: float = 0.25
    smallest: float = 1 / 64
    least: float = 0.0
    largest: float = 16.0
    resolution: float = 0.1
    weight: float = 1.0
    reserve: float = 1.0
    regain: tuple[float, ...] = field(default=(), metadata=LATER)
    longer: int = field(default=1, metadata=LATER)

    def __post_init__(self) -> None:
        numbers = (self.tolerance, self.floor, self.first, self.smallest, self.least, self.largest, self.resolution)
        if not all(math.isfinite(v) for v in (*numbers, self.weight, self.reserve, *(self.grid or ()), *self.regain)):
            raise InputError("a setting of the choice of α is no finite number; give numbers")
        if min(self.first, self.smallest, self.resolution) <= 0:
            raise InputError("first, smallest and resolution of the choice of α must be above 0")
        if self.grid is not None and not self.grid:
            raise InputError("the α grid is empty; give at least one value, such as 0.5,1,2")
        if self.grid is not None and min(self.grid) < 0:
            raise InputError(f"the α grid holds {min(self.grid)}; α is subtracted, so give values of 0 or more")
        check_ranges(self, "the choice of α")
        if self.longer < 1:
            raise InputError(
                f"{self.longer} times the steps for a vector that falls short; it is a whole number from 1 on"
            )
        if self.reserve < 1:
            raise InputError(f"the α reserve is {self.reserve}; it is a factor of 1 or more")
        if not 0 <= self.least <= self.largest:
            raise InputError(f"the least α is {self.least}; it must lie between 0 and the largest, {self.largest}")
        if self.weight <= 0:
            raise InputError(f"the weight of ASR is {self.weight}; it must be above 0")

    def sentence(self, kept: str = "clean accuracy") -> str:
        """The choice rule in a sentence; `kept` is what the floor is about."""
        return (
            f"smallest α{f' from {self.least:g} on' if self.least else ''} with ASR ≤ {self.tolerance:.1%} "
            "on the images for choosing, "
            f"keeping at least {self.floor:.0%} of the suspect's {kept} there"
            + (f"; up to {self.reserve:g} times that while as much is kept" if self.reserve > 1 else "")
            + (f"; up to {max(self.regain):g} where triggered images regain more than is lost" if self.regain else "")
        )


CLEAN_WEIGHT = 2.0  # most images bear no trigger

# Without labels and the true trigger. Agreement with the suspect stands for CA and falls sooner, as answers that were
# wrong change too; and where the recovered trigger stops working, a stronger true one may not have stopped yet, so that
# a little of the one that is left means much of the other. Triggers of several families need more steps than one where
# the attack is weak. Chosen on the zoo's calibration half, `longer` on two weak warps planted on its data
# (docs/lab/scan-trials.md).
BLIND = AlphaConfig(floor=0.88, weight=3.0, reserve=2.5, longer=4)


@dataclass
class AlphaSearch:
    """The chosen α, whether it satisfies the rule, and the whole curve in ascending α.

    `nothing` says that the trigger does not work on the model as it is, so that α is 0.
    """

    alpha: float
    satisfied: bool
    message: str | None
    curve: list[AlphaPoint] = field(default_factory=list)
    nothing: bool = False


Measure = Callable[[float, Callable[[BackdoorRates], bool] | None], BackdoorRates]


def search_alpha(measure: Measure, config: AlphaConfig) -> AlphaSearch:
    """Find α by the rule above.

    Args:
        measure: (α, enough) → rates on the validation images with the weights at θ − α·τ; it may stop early when
            `enough(rates so far)` is true, and without `enough` it uses every image.

    Raises:
        InputError: the validation images give no ASR or no CA (no labelled image outside the target class).
    """
    points: dict[float, AlphaPoint] = {}
    start = measure(0.0, None)
    assert start.asr is not None
    if not start.asr.n or not start.ca.n:
        raise InputError("the validation images hold no labelled image outside the target class; give more images")
    points[0.0] = AlphaPoint(0.0, start.ca, start.asr, start.triggered_accuracy)
    if start.asr.value <= config.tolerance:
        message = (
            f"nothing to remove: the trigger works on {start.asr.value:.1%} of {start.asr.n} images for choosing, and "
            f"{config.tolerance:.1%} counts as cured; the model is saved as it is"
        )
        return AlphaSearch(0.0, True, message, [points[0.0]], nothing=True)
    floor = config.floor * start.ca.value

    def hopeless(rates: BackdoorRates) -> bool:
        # Far from both limits a few batches decide; near them every image is used.
        assert rates.asr is not None
        return rates.asr.interval[0] > config.tolerance + 0.02 or rates.ca.interval[1] < floor - 0.02

    def look(alpha: float) -> AlphaPoint:
        if alpha not in points:
            rates = measure(alpha, hopeless)
            assert rates.asr is not None
            points[alpha] = AlphaPoint(alpha, rates.ca, rates.asr, rates.triggered_accuracy)
        return points[alpha]

    def cured(point: AlphaPoint) -> bool:
        return point.asr.value <= config.tolerance

    def kept(point: AlphaPoint) -> bool:
        return point.ca.value >= floor

    if config.grid is not None:
        for alpha in sorted(set(config.grid)):
            if cured(look(alpha)):
                break
    else:
        _bracket(look, cured, kept, config)
    asked = [a for a in points if config.grid is None or a in config.grid]
    if not any(cured(points[a]) and kept(points[a]) for a in asked):
        # A trade-off is to be struck, and what a few batches said does not do for that.
        for alpha in [a for a in asked if points[a].ca.n < start.ca.n]:
            rates = measure(alpha, None)
            assert rates.asr is not None
            points[alpha] = AlphaPoint(alpha, rates.ca, rates.asr, rates.triggered_accuracy)
    considered = [points[a] for a in asked]
    search = _choose(considered, sorted(points.values(), key=lambda p: p.alpha), cured, kept, floor, config)
    if config.grid is None and search.satisfied and search.alpha:
        raised = _raised(look, cured, kept, search.alpha, config) if config.reserve > 1 else search.alpha
        raised = _regained(look, lambda p: cured(p) and kept(p), raised, config)
        return AlphaSearch(raised, True, None, sorted(points.values(), key=lambda p: p.alpha))
    return search


def _raised(
    look: Callable[[float], AlphaPoint],
    cured: Callable[[AlphaPoint], bool],
    kept: Callable[[AlphaPoint], bool],
    alpha: float,
    config: AlphaConfig,
) -> float:
    """`alpha` with as much of the reserve as still satisfies the rule."""
    for quarters in (4, 3, 2, 1):
        further = look(min((1 + (config.reserve - 1) * quarters / 4) * alpha, config.largest))
        if cured(further) and kept(further):
            return further.alpha
    return alpha


def _regained(
    look: Callable[[float], AlphaPoint], good: Callable[[AlphaPoint], bool], alpha: float, config: AlphaConfig
) -> float:
    """`alpha`, or the one of `regain` beyond it where most answers are as they should be; the smallest of equals."""

    def answers(point: AlphaPoint) -> float:
        back = 0.0 if point.triggered_accuracy is None else point.triggered_accuracy.value
        return CLEAN_WEIGHT * point.ca.value + back

    further = [point for a in sorted(config.regain) if a > alpha and good(point := look(a))]
    return max([look(alpha), *further], key=answers).alpha if further else alpha


def _bracket(
    look: Callable[[float], AlphaPoint],
    cured: Callable[[AlphaPoint], bool],
    kept: Callable[[AlphaPoint], bool],
    config: AlphaConfig,
) -> None:
    low, high = config.least, max(config.least, config.first)
    while not cured(point := look(high)):
        # Once the model is broken and still backdoored, larger steps only break it further.
        if high * 2 > config.largest or (not kept(point) and point.ca.value < 0.5 * config.floor * look(0.0).ca.value):
            return
        low, high = high, high * 2
    while high - low > max(config.resolution * high, config.smallest):
        middle = (low + high) / 2
        low, high = (low, middle) if cured(look(middle)) else (middle, high)


def _choose(
    considered: Sequence[AlphaPoint],
    curve: list[AlphaPoint],
    cured: Callable[[AlphaPoint], bool],
    kept: Callable[[AlphaPoint], bool],
    floor: float,
    config: AlphaConfig,
) -> AlphaSearch:
    good = [p for p in considered if cured(p) and kept(p)]
    if good:
        best = min(good, key=lambda p: p.alpha)
        return AlphaSearch(best.alpha, True, None, curve)

    def excess(p: AlphaPoint) -> tuple[float, float]:
        above, below = max(0.0, p.asr.value - config.tolerance), max(0.0, floor - p.ca.value)
        return config.weight * above + below, p.alpha

    best = min(considered, key=excess)
    message = (
        f"no α satisfies both limits (ASR ≤ {config.tolerance:.1%}, CA ≥ {floor:.1%}); "
        f"the best trade-off found is α = {best.alpha:.4g} with ASR {best.asr.value:.1%} and CA {best.ca.value:.1%}"
    )
    return AlphaSearch(best.alpha, False, message, curve)
