"""Do nothing: the trivial end that keeps every bit of clean accuracy and all of the backdoor."""

from __future__ import annotations

from dataclasses import dataclass

from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.defenses.base import Cure, Defender, Defense


@dataclass(frozen=True)
class Config:
    """Nothing to set."""


def defend(clip: Clip, data: Defender, config: Config, work: Work) -> Cure:
    """Leave `clip` as it is."""
    return Cure(images=0, labels=0, steps=0, seconds=0.0)


DEFENSE = Defense(Config(), defend)
