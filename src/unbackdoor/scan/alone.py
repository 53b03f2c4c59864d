"""How far the foremost class stands out among the classes of the same model: a reading that needs no clean models.

Each search for a trigger votes for classes by their lead, the logarithm of the other finalists' median cost over the
class's own (`guided.standing`; with a clean twin no more than the logarithm of the twin's cost over it). Votes below 0
do not count. A backdoor is found by several searches, always at the same class; what is cheap by nature differs more
from one search to the next, but by far not always: two models' classes cannot be compared without a third that is known
to be clean. So this is told beside "cannot tell", with how often it errs, and decides nothing.

How often it errs was measured on the zoo (`recipes/figures/alone.py`; docs/scan.md): the limit is what the highest of
the calibration half's clean models comes to, the rates are the test half's. All are models of the embedded
architecture, each examined with 1,024 pictures; how this carries over to another one is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic

from unbackdoor.metrics.rates import Rate
from unbackdoor.runs.result import Share
from unbackdoor.scan.finding import Alone
from unbackdoor.scan.targets import Label

# The other inverters' statistics are no leads: collapse knows no classes, and a wave without a twin was not measured.
VOTERS = ("patch", "additive", "spectral", "warp", "colour")


@dataclass(frozen=True)
class Errors:
    """How a reading fared on models that are known.

    Args:
        limit: score of the highest clean model of the calibration half.
        false_alarms: clean models of the test half above it.
        detected: backdoored ones of the test half above it.
        right: backdoored ones of the test half whose target is the foremost class.
    """

    limit: float
    false_alarms: Rate
    detected: Rate
    right: Rate


WITHOUT_TWIN = Errors(1.2516, Rate(4, 20), Rate(29, 40), Rate(32, 40))
WITH_TWIN = Errors(0.9697, Rate(0, 20), Rate(25, 40), Rate(36, 40))


@dataclass(frozen=True)
class Standing(Generic[Label]):
    """What the classes of one model come to.

    Args:
        totals: votes for each class that stands foremost in a search.
        voters: by class, the searches that vote for it.
    """

    totals: Mapping[Label, float]
    voters: Mapping[Label, tuple[str, ...]]

    @property
    def target(self) -> Label:
        """The foremost class."""
        return max(self.totals, key=lambda c: self.totals[c])

    @property
    def score(self) -> float:
        """Its votes, 0 or more."""
        return self.totals[self.target]


def standing(scores: Mapping[str, Mapping[Label, float]]) -> Standing[Label] | None:
    """The votes for the classes of one model, None where none of the `VOTERS` ran.

    Args:
        scores: each inverter's statistics by class.
    """
    own = {name: scores[name] for name in VOTERS if scores.get(name)}
    foremost = dict.fromkeys(max(each, key=lambda c: each[c]) for each in own.values())
    voters = {c: tuple(name for name, each in own.items() if each.get(c, 0.0) > 0) for c in foremost}
    totals = {c: sum(own[name][c] for name in names) for c, names in voters.items()}
    return Standing(totals, voters) if totals else None


def reading(stands: Standing[Label], name: str, twin: bool) -> Alone:
    """What a finding tells of it.

    Args:
        name: of the foremost class.
        twin: whether the model was examined with a clean twin.
    """
    errs = WITH_TWIN if twin else WITHOUT_TWIN
    return Alone(
        name,
        round(stands.score, 4),
        errs.limit,
        stands.voters[stands.target],
        Share.of(errs.false_alarms),
        Share.of(errs.detected),
    )


def sentence(alone: Alone) -> str:
    """The reading for people, as the end of a message; it names no class, whose name is a stranger's text."""
    shares = (alone.detected, alone.false_alarms)
    bad, good = (f"{round((share.value or 0.0) * share.n)} of {share.n}" for share in shares)
    figures = f"{alone.score:.2f}, limit {alone.limit:.2f}"
    if alone.stands_out:
        what = f"the likely target stands out among the model's own classes ({figures})"
    else:
        what = f"no class stands out among the model's own ({figures})"
    return (
        f"a weaker reading, which decides nothing: {what}; of known models, all of the embedded architecture, "
        f"{bad} backdoored and {good} clean ones stood out"
    )
