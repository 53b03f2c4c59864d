"""The one cure of an attack that is unknown: what its trigger vectors are taken from, and one round after the other.

Variants of a recovered trigger can all be fragments that go one easy way to the target, and a model that is cured of
them still obeys the rest of the attacker's trigger. So triggers of every other family are among them, where a clean
twin shows which of those any model would obey. Without a twin the cure is rehearsed on a copy, which is searched again
for the same class: what works on both is what that cure would have left. Beside the other families a rehearsal left
as much on the four models that were compared, and cost clean accuracy and time (docs/lab/scan-trials.md). The cure
itself starts from the suspect, with all of them; two vectors one after the other cost more clean accuracy.

Which images: the vector and α have their own, taken from the end of the training split that `poison` leaves alone
(`data.shares.defender_rows`). A draw from the whole split would hold clean versions of the attacker's images, which a
defender does not have, and which the suspect answers better than others.

`unlearn --scan` and a zoo's cells both come here; they differ in what they do between rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from torch import Tensor

from unbackdoor.clip.handle import Clip
from unbackdoor.clip.streamline import streamlined
from unbackdoor.data.images import ImageSet
from unbackdoor.evaluation import Task
from unbackdoor.scan.examine import split
from unbackdoor.scan.finding import Lead
from unbackdoor.scan.inverters.base import Subject, works
from unbackdoor.scan.variants import again, of_families, variants
from unbackdoor.triggers.attack import Attack
from unbackdoor.triggers.mixed import Mixed
from unbackdoor.unlearning.alpha import AlphaConfig
from unbackdoor.unlearning.known import Plan, cure_known
from unbackdoor.unlearning.vector import METHODS

VERSION = 12  # of the way cures are made and told here; a zoo's cures of another version are made anew
METHOD = "distilled"  # the default's low-rank vector left more (docs/lab/scan-trials.md)
# More images than for a known attack, as variants of a trigger are to be seen with many, and others for choosing α: how
# far the cure may go beyond what the recovered trigger asks for is told by what clean images say.
FORGET, TUNING = 256, 512
CONFIG = replace(METHODS[METHOD], samples=FORGET, validation=TUNING)


T = TypeVar("T")


@dataclass(frozen=True)
class Suspect:
    """A model whose attack is unknown, and what it is cured with.

    Args:
        clip: the model, which the cure changes in place.
        scanned: the pictures that the scan drew; their labels are not read.
        names, head: the classes, and (C, D) unit rows, the zero-shot head over them.
        forget: images that vectors are taken from, labelled as the suspect answers them.
        plan: how vectors are taken, and α chosen.
        backdoored: what the scan said.
        seed: of the searches.
        natural: the model as it came, as inverters see it, with the clean origin where one is known: what triggers do
            in its twin is natural. None knows of none.
    """

    clip: Clip
    scanned: ImageSet
    names: tuple[str, ...]
    head: Tensor
    forget: ImageSet
    plan: Plan
    backdoored: bool | None = True
    seed: int = 0
    natural: Subject | None = None

    def subject(self) -> Subject:
        """The model as it is now, as inverters see it."""
        return split(self.clip, self.scanned, self.head, self.names, self.seed)


def cure_unknown(
    suspect: Suspect,
    leads: Sequence[Lead],
    cure: Callable[[int, Lead, Callable[[], Mixed]], T],
    look: Callable[[T], tuple[Lead | None, Sequence[Lead]]] | None = None,
    rounds: int | None = None,
) -> tuple[list[T], Lead | None]:
    """Cure one class after the other, as long as one is left.

    The next class is the one that `look` names; where it names none, the first of those that were named besides, by it
    or at first, whose trigger still works: the louder of two backdoors may have hidden the other.

    Args:
        leads: the classes that the scan named, the likeliest first.
        cure: cures `suspect.clip` in place; it is handed the round's number from 1 on, the class, and a function that
            makes what the vector is taken from (`source`).
        look: scans the cured model: the class that has to be cured next, and further ones. None looks at nothing.
        rounds: at most so many; None means no limit.

    Returns:
        What `cure` returned, round by round, and the class that a further round would have cured, or None.

    Raises:
        InputError: the images do not allow a cure (`trigger_vector`, `search_alpha`).
    """
    lead: Lead | None = leads[0]
    waiting, cures, cured = list(leads[1:]), list[T](), set[str]()
    subject = suspect.subject()
    while lead is not None and (rounds is None or len(cures) < rounds):
        cures.append(cure(len(cures) + 1, lead, partial(source, suspect, subject, lead)))
        cured.add(lead.target)
        urgent, further = look(cures[-1]) if look is not None else (None, ())
        subject = suspect.subject()
        waiting = list({other.target: other for other in (*waiting, *further) if other.target not in cured}.values())
        working = (other for other in waiting if works(subject, other.trigger, subject.names.index(other.target)))
        lead = urgent or next(working, None)
    return cures, lead


def source(suspect: Suspect, subject: Subject, lead: Lead) -> Mixed:
    """The recovered trigger, variants of it, and triggers of other families or up to four that work on a copy so cured.

    Other families where there is a twin to tell which of them any model obeys, the copy where there is none. Where a
    scan said that the model is clean, neither: what is found there is natural.

    Args:
        suspect: the model to be cured; it is left as it is.
        subject: the same model, as the inverters saw it.
        lead: the recovered trigger, who recovered it, and its class.

    Raises:
        InputError: the images do not allow a cure (`trigger_vector`, `search_alpha`).
    """
    target = subject.names.index(lead.target)
    first = variants(subject, lead.inverter, lead.trigger, target)
    if suspect.backdoored is False:
        return first
    twin = None if suspect.natural is None else suspect.natural.twin
    if twin is not None:  # what any model obeys would only take the place of what this one should not
        return Mixed.of([*first.triggers, *of_families(subject, target, 0, twin, without=lead.inverter)])
    copy = suspect.clip.clone()
    cure_known(copy, suspect.forget, Task(subject.head, Attack(first, target, lead.target)), suspect.plan)
    left = again(replace(subject, clip=streamlined(copy)), lead.inverter, target)
    # What works on the copy alone is of the cure's making.
    return Mixed.of([*first.triggers, *(t for t in left if works(subject, t, target))])


def rule_for(backdoored: bool | None, rule: AlphaConfig) -> AlphaConfig:
    """α's rule: a model that is cured although a scan called it clean is moved no further than it has to."""
    return replace(rule, reserve=1.0) if backdoored is False else rule
