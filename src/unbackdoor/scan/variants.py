"""More triggers for a target that is known: what a cure is taken from, and what it leaves.

The smallest trigger is often a fragment of the attacker's, and a cure of the fragment alone leaves the rest working.
Several searches for the same class, from different starting points, come upon different fragments.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from unbackdoor.base.draws import seeded, step_seed
from unbackdoor.scan.inverters import inverter as entry
from unbackdoor.scan.inverters.base import Subject, works
from unbackdoor.scan.inverters.guided import Family, Search
from unbackdoor.triggers.base import Trigger
from unbackdoor.triggers.mixed import Mixed

COUNT, STEPS, PICTURES = 4, 100, 4


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


def search(subject: Subject, family: Family, target: int, turn: int) -> Search:
    """A search for four triggers of a family, ended, whether or not they work; each `turn` starts elsewhere."""
    generator = seeded(step_seed(subject.seed, 2 + turn))
    ended = Search.begin(subject, family, torch.full((COUNT,), target), generator, STEPS)
    ended.run(PICTURES, STEPS)
    return ended


def _searched(subject: Subject, family_of: Callable[[int], Family], target: int, turn: int) -> list[Trigger]:
    family = family_of(subject.clip.image_size)
    return [family.trigger(row.cpu()) for row in search(subject, family, target, turn).raw.detach()]
