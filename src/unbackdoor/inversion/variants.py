"""More triggers for a target that is known: what a cure is taken from.

The smallest trigger is often a fragment of the attacker's, and a cure of the fragment alone leaves the rest working.
Several searches for the same class, from different starting points, come upon different fragments.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import torch

from unbackdoor.inversion import module_of, patch
from unbackdoor.inversion.base import Subject, works
from unbackdoor.inversion.guided import Family, Search
from unbackdoor.training.batches import step_seed
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
    module = import_module(module_of(inverter))
    others = _searched(subject, getattr(module, "more", _family(inverter)), target, 0)
    if hasattr(module, "stronger") and works(subject, twice := module.stronger(trigger), target):
        others.insert(0, twice)
    return Mixed.of([trigger, *others])


def again(subject: Subject, inverter: str, target: int) -> list[Trigger]:
    """Up to four triggers of the inverter's own family that work, from other starting points."""
    return _searched(subject, _family(inverter), target, 1)


def _family(inverter: str) -> Callable[[int], Family]:
    # Feature collapse has no target of its own; what it finds is a patch.
    found: Callable[[int], Family] = getattr(import_module(module_of(inverter)), "family", patch.family)
    return found


def _searched(subject: Subject, family_of: Callable[[int], Family], target: int, turn: int) -> list[Trigger]:
    family = family_of(subject.clip.image_size)
    generator = torch.Generator().manual_seed(step_seed(subject.seed, 2 + turn))
    search = Search.begin(subject, family, torch.full((COUNT,), target), generator, STEPS)
    search.run(PICTURES, STEPS)
    found = [family.trigger(row.cpu()) for row in search.raw.detach()]
    return [t for t in found if works(subject, t, target)]
