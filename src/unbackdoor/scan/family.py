"""What a cure leaves: triggers that it was not taken from, tried before and after it.

A cure ends the triggers that it was shown. The attacker's own may work on, and a scan that compares classes may not see
it, since what is left takes a stronger trigger than before. So every family of triggers is searched for the class once
more in the suspect, from other starts and on other pictures, and those that work are kept from the cure. How far one of
them pulls is the mean rise of the class's log odds over held pictures, less the same in a clean twin; what a cure has
left is the most that any of them still pulls, as a share of what it pulled before.

A trigger that a search finds is weaker than the attacker's own, and stops turning pictures while that one still works;
its pull tells sooner. In two suspects, moved by shares of the way to their cured models, the attacker's trigger worked
on 56.6, 10.7 and 0.3% of the pictures where 0.32, 0.13 and 0.01 was left, searched triggers turning none at any of the
three; and on 43.7, 13.5 and 4.5% where 0.24, 0.03 and nothing was left. What was tried before fails (docs/lab/
scan-trials.md): triggers found anew in a cured model turn most pictures there and in the suspect, however well it is
cured, as adversarial patterns pass between models whose weights are near; nor does their size or cost tell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from unbackdoor.base.draws import step_seed
from unbackdoor.metrics.rates import Rate
from unbackdoor.scan.inverters.base import Subject, try_out
from unbackdoor.scan.pull import pulls
from unbackdoor.scan.variants import HALF_NATURAL, of_families
from unbackdoor.triggers.base import Trigger
from unbackdoor.triggers.spec import from_spec

LEFT = 0.1  # share of a pull above which a cure is not whole
TURN, COUNT = 2, 2  # of the search, a cure's own triggers come from turns 0 and 1; triggers of each family


@dataclass(frozen=True)
class Reach:
    """How far triggers that a cure is not taken from reach in a model.

    Args:
        triggers: their specs; the one that was found, which the cure is taken from, is the first.
        pulls: rise of the class's log odds by each, a mean over held pictures.
        natural: the same in the clean twin; None where there is none.
        turned: held pictures that they turn, all together, of how many.
    """

    triggers: tuple[str, ...]
    pulls: tuple[float, ...]
    natural: tuple[float, ...] | None
    turned: tuple[int, int]

    @property
    def net(self) -> list[float]:
        """Pulls above what nature shows."""
        return [pull - own for pull, own in zip(self.pulls, self.natural or [0.0] * len(self.pulls), strict=True)]


def reach(subject: Subject, suspect: Subject, target: int, trigger: Trigger, before: Reach | None = None) -> Reach:
    """Try triggers out.

    Args:
        subject: the model.
        suspect: the model before any cure; its twin, where it has one, shows what is natural.
        target: index of the class.
        trigger: the recovered one.
        before: what this came to before the cure, with the same triggers; None searches for them, where there is a
            twin: without one, what a new search ends with could not be told from nature.
    """
    if before is None:
        # Other pictures than the scan's search began with, too.
        elsewhere = replace(subject, seed=step_seed(subject.seed, TURN))
        twin = suspect.twin
        others = [] if twin is None else of_families(elsewhere, target, TURN, twin, natural=HALF_NATURAL, count=COUNT)
        triggers = [trigger, *others]
        natural = None if twin is None else pulls(twin, triggers, target)
        specs = tuple(one.spec() for one in triggers)
    else:
        triggers, natural, specs = [from_spec(spec) for spec in before.triggers], before.natural, before.triggers
    tried = [try_out(subject, one, target)[0] for one in triggers]
    turned = (sum(rate.hits for rate in tried), sum(rate.n for rate in tried))
    return Reach(specs, pulls(subject, triggers, target), natural, turned)


def left(before: Reach, after: Reach) -> float:
    """The most that any trigger still pulls, as a share of what it pulled before; 0 where none pulls.

    Without a twin, the share of pictures that are still turned: what of a pull is nature's is not known.
    """
    if after.natural is None:
        was, now = (Rate(*reach.turned) for reach in (before, after))
        return now.value / was.value if was.hits else 0.0
    return max([0.0, *(share for _, share in shares(before, after))])


def shares(before: Reach, after: Reach) -> list[tuple[str, float]]:
    """Specs of the triggers that pulled more than nature, and the share of that which is left."""
    rows = zip(before.triggers, before.net, after.net, strict=True)
    return [(spec, now / was) for spec, was, now in rows if was > 0]


def not_whole(before: Reach, after: Reach) -> str | None:
    """Why a cure is not whole, in a sentence; None where it is."""
    share = left(before, after)
    if share <= LEFT:
        return None
    hits, n = after.turned
    if after.natural is None:
        was = Rate(*before.turned).value
        still = f"the trigger that was found still turns {hits / n:.0%} of {n} held pictures"
        return f"{still}; before the cure it was {was:.0%}"
    return (
        f"of {len(after.triggers)} triggers for the class, most of which the cure was not taken from, the strongest "
        f"still pulls {share:.0%} as hard as before it, beside a clean twin; all together they turn {hits / n:.0%} of "
        "the pictures that they are tried on"
    )
