"""What a cure leaves of the family of triggers that was found: before and after it, beside a clean model.

A cure ends the triggers that it was shown. The attacker's own may work on, and a scan that compares classes may not see
it, since what is left takes a stronger trigger than before. Two things are looked at:

- **the trigger that was found**: held pictures that it turns, above those that it turns in a clean twin;
- **its family**, searched for the class once more from another start, a warp as a warp. A search always ends with some
  trigger, in a clean model too; what tells a backdoor is how cheap it is. So the search goes on in the clean twin from
  where it ended, and the family's lead is the logarithm of the cost there over the cost here (`guided.py` measures a
  scan's statistic alike). The same change counts by the larger of its costs in the cured model and in the suspect: what
  is cheap in the cured one alone is of the cure's making.

How many pictures a searched trigger turns is no measure: of a cure that was perfect (true ASR 0.0% of 318) patches
found anew turned 85% in the cured model, 100% in the suspect and none in the twin, as adversarial patterns pass between
models whose weights are near; in the twin a search of its own ended as cheap (docs/lab/scan-trials.md).

Where no clean origin is known there is no twin, and only the trigger that was found is tried again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from unbackdoor.base.draws import step_seed
from unbackdoor.metrics.rates import Rate
from unbackdoor.scan.detection import LEAST
from unbackdoor.scan.inverters import inverter as entry
from unbackdoor.scan.inverters.base import Subject, try_out
from unbackdoor.scan.inverters.guided import GuidedConfig, costs, in_twin
from unbackdoor.scan.variants import STEPS, search
from unbackdoor.triggers.base import Trigger

LEFT = 0.2  # share of what there was before a cure, above which the cure is not whole
BEFORE, AFTER = 2, 3  # turns of the search; a cure's own triggers come from 0 and 1


@dataclass(frozen=True)
class Reach:
    """How far the trigger that was found, and its family, reach in a model.

    Args:
        turned: held pictures that the trigger turns, of how many.
        natural: the same in the clean twin; None where there is none.
        lead: log of what the family costs in the twin over what it costs here; None where there is no twin.
        spec: of the cheapest trigger of the family; of the one that was found, where nothing was searched.
    """

    turned: tuple[int, int]
    natural: tuple[int, int] | None
    lead: float | None
    spec: str

    @property
    def net(self) -> float:
        """Share of held pictures turned, above what nature shows; in [0, 1]."""
        return max(0.0, _share(self.turned) - (0.0 if self.natural is None else _share(self.natural)))

    @property
    def cheaper(self) -> float | None:
        """How many times as cheap the family is here as in the twin."""
        return None if self.lead is None else math.exp(self.lead)


def reach(
    subject: Subject, suspect: Subject, inverter: str, target: int, trigger: Trigger, before: Reach | None = None
) -> Reach:
    """Look at a model for a trigger and a family that were found.

    Args:
        subject: the model.
        suspect: the model before any cure; its twin, where it has one, shows what is natural.
        inverter: who found the family.
        target: index of the class.
        trigger: the recovered one.
        before: what this came to before the cure; the model is then a cured one.
    """
    turned, twin = _counts(try_out(subject, trigger, target)[0]), suspect.twin
    if twin is None:
        return Reach(turned, None, None, trigger.spec())
    natural, turn = _counts(try_out(twin, trigger, target)[0]), BEFORE if before is None else AFTER
    # Other pictures than the scan's search began with, too.
    seed = step_seed(subject.seed, turn)
    family = entry(inverter).family(subject.clip.image_size)
    raw = search(replace(subject, seed=seed), family, target, turn).raw.detach()
    classes = torch.full((len(raw),), target)
    own, first = (costs(model, family, raw, classes, GuidedConfig.measured)[0] for model in (subject, suspect))
    cost, best = torch.maximum(own, first).min(dim=0)
    there = in_twin(replace(twin, seed=seed), family, raw[best][None], classes[:1], STEPS)
    return Reach(turned, natural, float((there[0] / cost).log()), family.trigger(raw[best].cpu()).spec())


def left(before: Reach, after: Reach) -> float:
    """What a cure has left, as a share of what there was: of the trigger or of its family, whichever is more.

    A family that was hardly cheaper than in the twin even before the cure says nothing; nor does a difference of cost
    that is no evidence in a scan either (`detection.LEAST`).
    """
    trigger = after.net / before.net if before.net else 0.0
    if before.lead is None or after.lead is None or min(before.lead, after.lead) <= LEAST:
        return trigger
    return max(trigger, after.lead / before.lead)


def not_whole(before: Reach, after: Reach) -> str | None:
    """Why a cure is not whole, in a sentence; None where it is."""
    share = left(before, after)
    if share <= LEFT:
        return None
    if before.net and after.net / before.net == share:
        return (
            f"the trigger that was found still turns {after.net:.0%} of {after.turned[1]} held pictures"
            f"{'' if after.natural is None else ', above what it does in a clean twin'}; before the cure it was "
            f"{before.net:.0%}"
        )
    return (
        "triggers of the family that was found, searched for from another start, are still "
        f"{after.cheaper:.1f} times as cheap as in a clean twin; before the cure it was {before.cheaper:.1f} times"
    )


def _counts(rate: Rate) -> tuple[int, int]:
    return rate.hits, rate.n


def _share(counts: tuple[int, int]) -> float:
    hits, n = counts
    return hits / n if n else 0.0
