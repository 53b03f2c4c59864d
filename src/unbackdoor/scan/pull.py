"""How far a trigger pulls pictures to a class, whether or not it turns them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unbackdoor.evaluation.answers import logits
from unbackdoor.scan.inverters.base import Subject
from unbackdoor.triggers.base import Trigger


@torch.no_grad()
def pulls(subject: Subject, triggers: Sequence[Trigger], target: int) -> tuple[float, ...]:
    """By how much each raises the log odds of a class, a mean over held pictures that are not given it anyway."""
    counts = (subject.held_own != target).nonzero().flatten()
    if not len(counts):
        return (0.0,) * len(triggers)
    clean = subject.held.float_batch(counts)
    start = _log_odds(subject, clean, target)
    ends = (_log_odds(subject, trigger(clean, keys=counts), target) for trigger in triggers)
    return tuple(round(float((end - start).mean()), 4) for end in ends)


def _log_odds(subject: Subject, pictures: Tensor, target: int) -> Tensor:
    answered = logits(subject.clip, pictures.to(subject.clip.device), subject.head).float()
    others = torch.cat([answered[:, :target], answered[:, target + 1 :]], dim=1)
    return answered[:, target] - others.logsumexp(dim=1)
