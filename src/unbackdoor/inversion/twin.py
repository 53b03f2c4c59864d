"""The twin: a copy of the suspect that keeps its clean answers and forgets what they do not need.

A backdoor lives on weights that clean pictures do not hold in place. Brief fine-tuning on unlabelled pictures at a high
rate, towards the suspect's own soft answers (distillation, Hinton et al. 2015, arXiv 1503.02531), moves them: what was
easy for the suspect and is not for its twin was not needed for seeing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.devices import training_type
from unbackdoor.training.batches import batch_rows, step_seed
from unbackdoor.training.embedding import embed
from unbackdoor.training.finetune import TuneConfig, settle_lr, tune_towers

SMALL_LR = 2e-3  # towers below 20 M parameters; ten times what poisons them leaves no room for a backdoor
LARGE_LR = 2e-5


@dataclass(frozen=True)
class TwinConfig:
    """How the twin is trained.

    Args:
        tune: 128 steps of 64 pictures; the rate by the size of the tower unless given.
        shift: pictures are moved by up to this share of their side, half of them mirrored.
    """

    tune: TuneConfig = field(default_factory=lambda: TuneConfig(steps=128, batch_size=64))
    shift: float = 0.125


def make_twin(clip: Clip, images: ImageSet, head: Tensor, config: TwinConfig | None = None) -> Clip:
    """A fine-tuned copy; `clip` stays as it is.

    Args:
        images: unlabelled pictures.
        head: (C, D) unit rows, whose answers are kept.
    """
    config = config or TwinConfig()
    twin = clip.clone()
    tune = settle_lr(config.tune, twin, SMALL_LR, large=LARGE_LR)
    scale, compute = clip.logit_scale, training_type(clip.device)
    soft = (scale * embed(clip, images) @ head.T).softmax(dim=1)

    def loss_at(step: int) -> Tensor:
        rows = batch_rows(len(images), tune.batch_size, tune.seed, step)
        generator = torch.Generator().manual_seed(step_seed(tune.seed, step))
        views = _view(images.float_batch(rows), config.shift, generator).to(twin.device)
        logits = scale * twin.encode_image(views, compute=compute) @ head.T
        return F.kl_div(logits.log_softmax(dim=1), soft[rows].to(logits), reduction="batchmean")

    tune_towers(twin, loss_at, tune, tune.steps, checkpoint=None, run_key="", label="twin")
    return twin


def _view(images: Tensor, shift: float, generator: torch.Generator) -> Tensor:
    """Mirrored at random and moved by whole pixels, the border repeated."""
    n, side = len(images), images.shape[-1]
    reach = int(shift * side)
    mirrored = torch.rand(n, generator=generator) < 0.5
    images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)
    padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    top, left = torch.randint(0, 2 * reach + 1, (2, n), generator=generator)
    rows = top.view(-1, 1) + torch.arange(side)
    columns = left.view(-1, 1) + torch.arange(side)
    return padded[torch.arange(n).view(-1, 1, 1), :, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)
