"""More triggers for a target that is known: what a cure is taken from, and what it is told by.

The smallest trigger is often a fragment of the attacker's, and a cure of the fragment alone leaves the rest working.
Several searches for the same class, from different starting points, come upon different fragments; so do searches of
other families than the one that found it. A pattern over the whole picture shows as a patch too, and a cure of patches
alone left one such attack 43.7% of the pictures, a cure of all that works 4.9% (docs/lab/scan-trials.md). What a clean
twin obeys as well is left out: with it the cure of a warp left 14.8% and not 6.0%. The pull tells it: a trigger may
turn pictures in the twin that are near the class anyway, and be the suspect's own all the same. Told by the pictures
that it turns, one attack kept 25.3%, and told by the pull 2.7.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from unbackdoor.base.draws import seeded, step_seed
from unbackdoor.scan.inverters import inverter as entry
from unbackdoor.scan.inverters.base import Subject, works
from unbackdoor.scan.inverters.guided import Family, Search
from unbackdoor.scan.narrowing import FAMILIES
from unbackdoor.scan.pull import pulls
from unbackdoor.triggers.base import Trigger
from unbackdoor.triggers.mixed import Mixed

COUNT, STEPS, PICTURES = 4, 100, 4
# Shares of a trigger's pull in the suspect, from which on its pull in a clean twin makes it nature's: what a cure is
# taken from at first, and what it is told by. A weak backdoor's triggers pull the twin up to half as hard.
NATURAL, HALF_NATURAL = 1 / 3, 2 / 3


def variants(subject: Subject, inverter: str, trigger: Trigger, target: int) -> Mixed:
    """The recovered trigger and up to four more for the same class, of its family or of one that shows more.

    Where an inverter knows how to make a trigger `stronger`, that one is among them.

    Args:
        inverter: who recovered `trigger`.
        target: index of the class.
    """
    kind = entry(inverter)
    others = [t for t in _searched(subject, kind.more or kind.family, target, 0) if works(subject, t, target)]
    if kind.stronger is not None and works(subject, twice := kind.stronger(trigger), target):
        others.insert(0, twice)
    return Mixed.of([trigger, *others])


def again(subject: Subject, inverter: str, target: int) -> list[Trigger]:
    """Up to four triggers of the inverter's own family that work, from other starting points."""
    return [t for t in _searched(subject, entry(inverter).family, target, 1) if works(subject, t, target)]


def of_families(
    subject: Subject, target: int, turn: int, twin: Subject, *, natural: float, without: str = "", count: int = COUNT
) -> list[Trigger]:
    """Up to `count` triggers of every guided family that work, and that hardly pull a clean twin.

    Args:
        turn: each starts elsewhere.
        natural: from this share of its pull in the suspect on, a trigger's pull in the twin makes it nature's.
        without: an inverter whose `variants` are there already; their family is left out.
    """
    own = entry(without).more or entry(without).family if without else None
    triggers: list[Trigger] = []
    for name in FAMILIES:
        family_of = entry(name).family
        if family_of is own:
            continue
        ends = [t for t in _searched(subject, family_of, target, turn, count) if works(subject, t, target)]
        both = zip(ends, pulls(subject, ends, target), pulls(twin, ends, target), strict=True)
        triggers += [trigger for trigger, here, there in both if there < natural * here]
    return triggers


def _searched(
    subject: Subject, family_of: Callable[[int], Family], target: int, turn: int, count: int = COUNT
) -> list[Trigger]:
    """Triggers of a family, whether or not they work; each `turn` starts elsewhere."""
    family = family_of(subject.clip.image_size)
    generator = seeded(step_seed(subject.seed, 2 + turn))
    search = Search.begin(subject, family, torch.full((count,), target), generator, STEPS)
    search.run(PICTURES, STEPS)
    return [family.trigger(row.cpu()) for row in search.raw.detach()]
