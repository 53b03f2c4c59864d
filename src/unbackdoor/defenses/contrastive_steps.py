"""Steps on image–caption pairs, shared by the contrastive defenses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from unbackdoor.base.devices import half_type
from unbackdoor.base.draws import batch_rows
from unbackdoor.base.errors import InputError
from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.data.pairs import ImagePairs, PairBatch
from unbackdoor.defenses.base import Defender
from unbackdoor.training.finetune import TuneConfig, tune_towers
from unbackdoor.training.loop import FitResult

LossOf = Callable[[PairBatch, int], Tensor]  # (batch, its images on the model's device; step) → loss


def clean_pairs(name: str, data: Defender) -> ImagePairs:
    """The clean images that have a caption, their own or one made from their class.

    Raises:
        InputError: none has, or only one, which gives nothing to contrast.
    """
    pairs = ImagePairs(data.clean, data.templates)
    with_caption = [row for row in range(len(pairs)) if pairs.caption(row)]
    if len(with_caption) < 2:
        raise InputError(f"defense {name} needs at least two clean images with captions or labels")
    return pairs if len(with_caption) == len(pairs) else ImagePairs(data.clean.subset(with_caption), data.templates)


def encode_captions(clip: Clip, captions: Sequence[str]) -> Tensor:
    """Unit embeddings (B, D) with gradients; equal captions, the rule where classes make them, are encoded once."""
    rows = clip.encode_text(list(dict.fromkeys(captions)), grad=True, compute=half_type(clip.device))
    return rows[caption_groups(captions, rows.device)]


def caption_groups(captions: Sequence[str], device: torch.device) -> Tensor:
    """Numbers (B,), equal where the captions are, counted in the order in which each first comes."""
    place: dict[str, int] = {}
    return torch.tensor([place.setdefault(caption, len(place)) for caption in captions], device=device)


def train_on_pairs(
    clip: Clip,
    pairs: ImagePairs,
    tune: TuneConfig,
    loss_of: LossOf,
    work: Work,
    label: str,
    extra: nn.Module | None = None,
) -> FitResult:
    """Tune the towers on `loss_of` the pairs of each step."""
    device = clip.device

    def loss_at(step: int) -> Tensor:
        batch = pairs.batch(batch_rows(len(pairs), tune.batch_size, tune.seed, step))
        return loss_of(replace(batch, images=batch.images.to(device), groups=batch.groups.to(device)), step)

    return tune_towers(clip, loss_at, tune, work.stage(label), extra=extra)
