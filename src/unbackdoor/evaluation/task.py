"""What a model is asked."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from unbackdoor.triggers.attack import Attack


@dataclass(frozen=True)
class Task:
    """What a model is asked: the zero-shot head over the classes, and optionally the attack to measure.

    Args:
        head: (C, D) unit rows, from `Clip.zero_shot_head`.
        attack: its trigger is applied to every image for ASR; None measures CA only.
        counting: see `unbackdoor.metrics.backdoor`.
    """

    head: Tensor
    attack: Attack | None = None
    counting: str = "standard"
