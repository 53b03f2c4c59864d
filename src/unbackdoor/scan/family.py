"""What a cure leaves of the family of triggers that was found: the same search, from another start, before and after.

A cure ends the triggers that it was shown. The attacker's own may work on, and a scan that compares classes may not see
it, since what is left takes a stronger trigger than before. So the family that the trigger was found in is searched for
its class again: a warp as a warp. Every search ends with some trigger, in a clean model too. Of a trigger counts

- what it turns in the cured model and in the suspect: what works on the cured one alone is of the cure's making;
- above what it turns in a clean twin of the suspect: that is natural.

Where no clean origin is known there is no twin, and only the trigger that was found is tried again: what a new search
ends with could not be told from nature.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from unbackdoor.base.draws import step_seed
from unbackdoor.metrics.rates import Rate
from unbackdoor.scan.inverters.base import Subject, try_out
from unbackdoor.scan.variants import searched
from unbackdoor.triggers.base import Trigger

LEFT = 0.2  # share of a family's reach above which a cure is not whole
BEFORE, AFTER = 2, 3  # turns of the search; a cure's own triggers come from 0 and 1


@dataclass(frozen=True)
class Reach:
    """How far a family of triggers reaches in a model: its trigger that turns most held pictures, above the twin.

    Args:
        turned: held pictures that it turns, of how many; in the suspect, where these are fewer.
        natural: the same in the clean twin; None where there is none.
        spec: the trigger's.
    """

    turned: tuple[int, int]
    natural: tuple[int, int] | None
    spec: str

    @property
    def net(self) -> float:
        """Share of held pictures turned, above what nature shows; in [0, 1]."""
        return max(0.0, _share(self.turned) - (0.0 if self.natural is None else _share(self.natural)))


def reach(
    subject: Subject, suspect: Subject, inverter: str, target: int, trigger: Trigger, before: Reach | None = None
) -> Reach:
    """Search a model for a family that was found.

    Args:
        subject: the model.
        suspect: the model before any cure; its twin, where it has one, shows what is natural.
        inverter: who found the family.
        target: index of the class.
        trigger: the recovered one, which is tried too.
        before: what the family came to before the cure; the model is then a cured one.
    """
    tried = [trigger]
    if suspect.twin is not None:
        turn = BEFORE if before is None else AFTER
        # Other pictures, too.
        tried += searched(replace(subject, seed=step_seed(subject.seed, turn)), inverter, target, turn)
    return max((_reach(subject, suspect, each, target) for each in tried), key=lambda r: r.net)


def left(before: Reach, after: Reach) -> float:
    """What is left of a family's reach, as a share of it; 0 where it reached nothing."""
    return after.net / before.net if before.net else 0.0


def not_whole(before: Reach, after: Reach) -> str | None:
    """Why a cure is not whole, in a sentence; None where it is."""
    if left(before, after) <= LEFT:
        return None
    share, was = f"{after.net:.0%} of {after.turned[1]} held pictures", f"before the cure it was {before.net:.0%}"
    if after.natural is None:
        return f"the trigger that was found still turns {share}; {was}"
    return (
        f"triggers of the family that was found, searched for from another start, still turn {share}, above what they "
        f"do in a clean twin; {was}"
    )


def _reach(subject: Subject, suspect: Subject, trigger: Trigger, target: int) -> Reach:
    counts = [_counts(try_out(model, trigger, target)[0]) for model in (subject, suspect)]
    natural = None if suspect.twin is None else _counts(try_out(suspect.twin, trigger, target)[0])
    return Reach(min(counts, key=_share), natural, trigger.spec())


def _counts(rate: Rate) -> tuple[int, int]:
    return rate.hits, rate.n


def _share(counts: tuple[int, int]) -> float:
    hits, n = counts
    return hits / n if n else 0.0
