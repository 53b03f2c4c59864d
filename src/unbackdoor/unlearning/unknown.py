"""A cure that knows nothing of the attack: what its trigger vector is taken from.

Variants of a recovered trigger can all be fragments that go one easy way to the target, and a model that is cured of
them still obeys the rest of the attacker's trigger. So the cure is rehearsed on a copy, and the copy is searched again
for the same class: what works on both is what that cure would have left. The cure itself starts from the suspect, with
all of them; two vectors one after the other cost more clean accuracy (docs/lab/scan-trials.md).
"""

from __future__ import annotations

from dataclasses import replace

from unbackdoor.clip.handle import Clip
from unbackdoor.clip.streamline import streamlined
from unbackdoor.data.images import ImageSet
from unbackdoor.evaluation import Task
from unbackdoor.inversion.base import Subject, works
from unbackdoor.inversion.finding import Lead
from unbackdoor.inversion.variants import again, variants
from unbackdoor.triggers.attack import Attack
from unbackdoor.triggers.mixed import Mixed
from unbackdoor.unlearning.alpha import AlphaConfig
from unbackdoor.unlearning.known import Plan, cure_known
from unbackdoor.unlearning.vector import METHODS

VERSION = 6  # of the way cures are made here; a zoo's cures of another version are made anew
METHOD = "distilled"
# More images than for a known attack, as variants of a trigger are to be seen with many, and others for choosing α: how
# far the cure may go beyond what the recovered trigger asks for is told by what clean images say.
FORGET, TUNING = 256, 512
CONFIG = replace(METHODS[METHOD], samples=FORGET, validation=TUNING)


def source(
    clip: Clip, subject: Subject, lead: Lead, forget: ImageSet, plan: Plan, *, backdoored: bool | None = True
) -> Mixed:
    """The recovered trigger, variants of it, and up to four that work here and still work on a copy cured of these.

    Args:
        clip: the model to be cured; it is left as it is.
        subject: the same model, as the inverters saw it.
        lead: the recovered trigger, who recovered it, and its class.
        forget: the cure's images, labelled as the suspect answers them.
        plan: the cure's own.
        backdoored: what a scan said; where it said that the model is clean, nothing is rehearsed, as of a backdoor that
            is not there nothing is left, and what works on a cured clean model is natural.

    Raises:
        InputError: the images do not allow a cure (`trigger_vector`, `search_alpha`).
    """
    target = subject.names.index(lead.target)
    first = variants(subject, lead.inverter, lead.trigger, target)
    if backdoored is False:
        return first
    copy = clip.clone()
    cure_known(copy, forget, Task(subject.head, Attack(first, target, lead.target)), plan)
    left = again(replace(subject, clip=streamlined(copy)), lead.inverter, target)
    # What works on the copy alone is of the cure's making.
    return Mixed.of([*first.triggers, *(t for t in left if works(subject, t, target))])


def rule_for(backdoored: bool | None, rule: AlphaConfig) -> AlphaConfig:
    """α's rule: a model that is cured although a scan called it clean is moved no further than it has to."""
    return replace(rule, reserve=1.0) if backdoored is False else rule
