"""The one cure of an attack that is unknown: what its trigger vectors are taken from, and one round after the other.

Variants of a recovered trigger can all be fragments that go one easy way to the target, and a model that is cured of
them still obeys the rest of the attacker's trigger. So triggers of every other family are among them, where a clean
twin shows which of those any model would obey. Without a twin the cure is rehearsed on a copy, which is searched again
for the same class: what works on both is what that cure would have left. Beside the other families a rehearsal left
as much on the four models that were compared, and cost clean accuracy and time (docs/lab/scan-trials.md). The cure
itself starts from the suspect, with all of them; two vectors one after the other cost more clean accuracy. Where
triggers that were kept from it still pull, it is made once more from the same start, of what is left, too.

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

from unbackdoor.base.notices import warn
from unbackdoor.clip.handle import Clip
from unbackdoor.clip.streamline import streamlined
from unbackdoor.data.images import ImageSet
from unbackdoor.evaluation import Task
from unbackdoor.scan.examine import split
from unbackdoor.scan.family import LEFT, Reach, left, shares
from unbackdoor.scan.finding import Lead
from unbackdoor.scan.inverters.base import Subject, works
from unbackdoor.scan.variants import HALF_NATURAL, NATURAL, again, of_families, variants
from unbackdoor.triggers.attack import Attack
from unbackdoor.triggers.mixed import Mixed
from unbackdoor.triggers.spec import from_spec
from unbackdoor.unlearning.alpha import AlphaConfig
from unbackdoor.unlearning.known import Plan, cure_known
from unbackdoor.unlearning.vector import METHODS
from unbackdoor.weights.vector import restore, snapshot

VERSION = 13  # of the way cures are made and told here; a zoo's cures of another version are made anew
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
        return Mixed.of(
            [*first.triggers, *of_families(subject, target, 0, twin, natural=NATURAL, without=lead.inverter)]
        )
    copy = suspect.clip.clone()
    cure_known(copy, suspect.forget, Task(subject.head, Attack(first, target, lead.target)), suspect.plan)
    working = again(replace(subject, clip=streamlined(copy)), lead.inverter, target)
    # What works on the copy alone is of the cure's making.
    return Mixed.of([*first.triggers, *(t for t in working if works(subject, t, target))])


def cure_class(
    suspect: Suspect,
    lead: Lead,
    first: Mixed,
    before: Reach | None,
    cure: Callable[[int, Mixed], T],
    reached: Callable[[int], Reach],
) -> tuple[T, Reach | None]:
    """Cure one class; where that is not whole, once more from the same start, of the families that are left, too.

    Args:
        first: what the cure is taken from.
        before: what triggers that are kept from it come to; None, and no second cure, where a scan called the model
            clean: what is found there is natural.
        cure: cures `suspect.clip` in place; it is handed the number of the attempt, 1 or 2, and the triggers.
        reached: what the triggers of `before` come to after that attempt.

    Returns:
        What `cure` returned last, and what the triggers of `before` came to after it.

    Raises:
        InputError: the images do not allow a cure (`trigger_vector`, `search_alpha`).
    """
    if before is None:
        return cure(1, first), None
    weights = suspect.clip.image_parameters()  # all that a cure moves
    start = snapshot(weights)
    cured, after = cure(1, first), reached(1)
    pulling = [spec for spec, share in shares(before, after) if share > LEFT]
    if not pulling:
        return cured, after
    end = snapshot(weights)
    restore(weights, start)
    more = _wider(suspect, lead, first, pulling)
    if more is None:
        restore(weights, end)
        return cured, after
    warn(
        f"triggers for {lead.target} still pull {left(before, after):.0%} as hard as before the cure; it is made again"
    )
    return cure(2, more), reached(2)


def _wider(suspect: Suspect, lead: Lead, first: Mixed, pulling: Sequence[str]) -> Mixed | None:
    """`first` and more triggers of the families that are left; None where no more works, or there is no twin.

    A weak backdoor's own family may pull the clean twin, too, and a cure of the other families alone leaves it. Were
    all such triggers there from the start, they would take the place of others (docs/lab/scan-trials.md).

    Args:
        suspect: as it was before the cure.
        pulling: specs of triggers that still pull after it.
    """
    twin, kinds = None if suspect.natural is None else suspect.natural.twin, {from_spec(spec).name for spec in pulling}
    if twin is None:
        return None
    target = suspect.names.index(lead.target)
    others = of_families(suspect.subject(), target, 0, twin, natural=HALF_NATURAL)
    more = [trigger for trigger in others if trigger.name in kinds and trigger not in first.triggers]
    return Mixed.of([*first.triggers, *more]) if more else None


def rule_for(backdoored: bool | None, rule: AlphaConfig) -> AlphaConfig:
    """α's rule: a model that is cured although a scan called it clean is moved no further than it has to."""
    return replace(rule, reserve=1.0, longer=1) if backdoored is False else rule
