"""What every defense takes and gives back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from torch import Tensor

from unbackdoor.base.errors import InputError
from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.data.classnames import DEFAULT_TEMPLATES
from unbackdoor.data.images import ImageSet
from unbackdoor.runs.settings import changed
from unbackdoor.training.finetune import TuneConfig
from unbackdoor.training.loop import FitResult
from unbackdoor.triggers.attack import Attack

C = TypeVar("C")


@dataclass(frozen=True)
class Defender:
    """What a defender has. A defense takes of it what its paper allows and asks for the rest with `InputError`.

    Args:
        clean: trusted images, none triggered, with labels, captions or both.
        validation: other trusted images, for choices such as α.
        head: (C, D) zero-shot head of the suspect over the classes of `clean`.
        templates: prompts of that head; captions of labelled images are made from them.
        attack: where it is known.
        pretrained: the model before anyone fine-tuned it, where it is to be had.
        training: makes the data that the suspect was trained on, poison included, where they are to be had.
    """

    clean: ImageSet
    validation: ImageSet
    head: Tensor
    templates: tuple[str, ...] = DEFAULT_TEMPLATES
    attack: Attack | None = None
    pretrained: Clip | None = None
    training: Callable[[], ImageSet] | None = None


@dataclass
class Cure:
    """What a defense used; the clip that it was given now holds the cured weights.

    Args:
        images: different images seen, those for choices included.
        labels: how many of their labels (or captions) were used.
        steps: gradient steps.
        seconds: wall time.
        head: (C, D) classifier that replaces the zero-shot head, None where the cured model keeps its own.
        facts: whatever else is worth a line in the result, JSON-ready.
    """

    images: int
    labels: int
    steps: int
    seconds: float
    head: Tensor | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def trained(began: float, used: int, tune: TuneConfig, run: FitResult, **facts: Any) -> Cure:
    """What a defense used that trains on labeled or captioned images.

    Args:
        began: `time.perf_counter()` when it began.
        used: different images seen, each with its label or caption.
        tune, run: the training as it was settled, and what became of it.
        facts: further lines of the result.
    """
    facts |= {"tune": asdict(tune), "losses": run.losses}
    return Cure(used, used, tune.steps, time.perf_counter() - began, facts=facts)


@dataclass(frozen=True)
class Defense:
    """A way to repair a model.

    Args:
        config: a frozen dataclass, its paper's defaults as values.
        defend: repairs the clip in place and says what it took.
    """

    config: Any
    defend: Callable[[Clip, Defender, Any, Work], Cure]


def configured(name: str, base: C, settings: Mapping[str, Any]) -> C:
    """`base` with the fields named in `settings` replaced; fields of its `tune: TuneConfig` may be named directly.

    Raises:
        InputError: no such setting, or one of another type.
    """
    return changed(name, base, settings, within=("tune",))


def require(name: str, what: str, value: Any) -> None:
    """Refuse to run without something the defense cannot do without.

    Raises:
        InputError: value is None.
    """
    if value is None:
        raise InputError(f"defense {name} needs {what}, which was not given")
