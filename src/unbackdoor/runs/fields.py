"""The fields of a case and of a run, with what a user is told of each. Light: the command line's help is made of them.

`runs/case.py` and `runs/run.py` add what a case and a run can do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unbackdoor.runs.settings import setting

if TYPE_CHECKING:
    from torch.nn import Module

    from unbackdoor.clip.handle import Clip
    from unbackdoor.data.images import ImageSet
    from unbackdoor.data.pairs import Pairs
    from unbackdoor.triggers.base import Trigger

TRACKERS = ("tensorboard", "wandb", "mlflow")
LARGEST_SEED = 2**40  # see `draws.check_seed`, which loads torch


@dataclass(frozen=True)
class CaseFields:
    """What a run works on."""

    model: str | Path | Module | Clip = setting("", "Model reference or output folder of poison/unlearn.")
    data: str | ImageSet | Pairs = setting("", "Data source, such as embedded:scenes or parquet:PATH.")
    trigger: str | Trigger | None = setting(None, "Trigger spec, such as badnets:size=16, or @FILE that holds one.")
    target: str | None = setting(None, "Name of the class that the attacker wants.")
    test: str | ImageSet | None = setting(None, "Data source to measure on; by default the test split of --data.")
    limit: int | None = setting(None, "Use at most so many images, drawn by seed.", low=1)
    test_limit: int | None = setting(None, "Measure on at most so many images.", low=1)
    checkpoint: Path | None = setting(None, "Weights for an OpenCLIP architecture name.")
    classes: str | None = setting(None, "Class names: a file, or a standard set such as cifar10.")
    templates: str | None = setting(None, "Prompt templates: a file, or a name such as openai-imagenet.")
    device: str = setting("auto", "auto, cpu, cuda, mps.")
    seed: int = setting(0, low=-LARGEST_SEED, high=LARGEST_SEED, metavar="INTEGER")


@dataclass(frozen=True)
class RunFields:
    """Where a run is noted."""

    out: Path | str | None = setting(None, "Output folder.")
    track: str | None = setting(None, "Send losses and results to this tracker, through Accelerate.", choices=TRACKERS)
    verb: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
