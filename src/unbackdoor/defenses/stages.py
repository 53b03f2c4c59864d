"""What the training defenses share: settled settings, the images they may use, and how a stage is run."""

from __future__ import annotations

import torch
from torch import Tensor

from unbackdoor.base.draws import batch_rows, seeded, step_seed
from unbackdoor.base.errors import InputError
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.training.finetune import TuneConfig, settle_tune
from unbackdoor.training.rates import Purpose


def settle(tune: TuneConfig, clip: Clip, n: int, purpose: Purpose = "cure") -> TuneConfig:
    """`tune` with learning rate and steps settled for n images."""
    return settle_tune(tune, clip, n, purpose)


def labeled(name: str, images: ImageSet, what: str = "clean images") -> ImageSet:
    """The images whose class is known.

    Raises:
        InputError: there are none.
    """
    rows = images.subset(images.labels >= 0)
    if not len(rows):
        raise InputError(f"defense {name} needs labels, and none of the {len(images)} {what} has one")
    return rows


def images_used(images: ImageSet, tune: TuneConfig) -> int:
    """How many different images the steps of `tune` touch."""
    return min(len(images), tune.steps * tune.batch_size)


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """Random numbers of one step, on the device where they are needed."""
    return seeded(step_seed(seed, step), device)


def labeled_batch(images: ImageSet, tune: TuneConfig, step: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images (B, 3, S, S) and labels (B,) of one step."""
    rows = batch_rows(len(images), tune.batch_size, tune.seed, step)
    return images.float_batch(rows).to(device), images.labels[rows].to(device)
