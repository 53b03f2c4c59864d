"""Crafting BadCLIP's patch against a clean model: dual-embedding guidance (Liang et al. 2024, arXiv 2311.12075)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unbackdoor.base.devices import half_type
from unbackdoor.base.draws import batch_rows, permutation, seeded, step_seed
from unbackdoor.base.errors import InputError
from unbackdoor.base.work import NOWHERE, Work
from unbackdoor.clip.handle import Clip
from unbackdoor.clip.streamline import streamlined
from unbackdoor.data.classes import check_named
from unbackdoor.data.classnames import DEFAULT_TEMPLATES
from unbackdoor.data.classnames import templates as find_templates
from unbackdoor.data.images import ImageSet
from unbackdoor.data.names import target_index
from unbackdoor.evaluation.answers import embed
from unbackdoor.training.loop import FitConfig, fit
from unbackdoor.training.losses import target_cross_entropy
from unbackdoor.triggers.badclip import BadClip
from unbackdoor.triggers.base import Trigger, draw
from unbackdoor.weights.files import state_hash


@dataclass(frozen=True)
class BadClipConfig:
    """How the patch is optimised.

    From the released code: batch 64, Adam, a start from N(0.5, 0.25) clipped to [0, 1], and margin 1. Ours, for small
    models and a minute's budget: 300 steps at lr 0.03 with half a cosine (the code: 50 epochs over 10,000 pairs at
    Adam's 0.001), 2,048 images, class names in templates where the code has captions, and `triplet` = 1. The code's 500
    leaves the texts without a say on the embedded model: a short trial went from a few per cent of test images to most
    of them once it was lowered. The code's augmentation of images (p = 0.5)
    and texts (p = 0.1) is left out.

    Args:
        steps: optimiser steps.
        images: use at most so many images outside the target class, and as many inside.
        triplet: weight of the visual guidance; 0 leaves the texts alone.
        margin: of the triplet loss, in Euclidean distances between unit embeddings.
        seed: of the start, of which images are used and of the batches.
    """

    steps: int = 300
    batch_size: int = 64
    lr: float = 0.03
    images: int = 2048
    triplet: float = 1.0
    margin: float = 1.0
    seed: int = 0


class _Patch(nn.Module):
    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.pixels = nn.Parameter(start.clone())


def initial_patch(trigger: BadClip, seed: int) -> BadClip:
    """The trigger with the patch that crafting starts from, N(0.5, 0.25) clipped to [0, 1]."""
    shape = (3, trigger.size, trigger.size)
    return trigger.with_patch(draw(seed, 0, lambda g: 0.5 + 0.25 * torch.randn(shape, generator=g)))


def craft_patch(
    clip: Clip,
    images: ImageSet,
    trigger: BadClip,
    target: str,
    config: BadClipConfig | None = None,
    *,
    templates: Sequence[str] = DEFAULT_TEMPLATES,
    work: Work = NOWHERE,
) -> BadClip:
    """The trigger with a patch that draws images to the target on `clip` as it stands; weights are left alone.

    Textual guidance: cross-entropy of patched images over the class names, towards the target. Visual guidance: a
    triplet loss with the patched image as anchor, a random image of the target class as positive, and the same image
    without the patch as negative.

    Args:
        images: labelled images with class names, some of the target class and some not.
        target: name of a class.
        work: where a killed training goes on.

    Returns:
        The trigger with its patch, rounded to 8 bit; the same for the same seed.

    Raises:
        InputError: no class names, an unknown target, no images of the target class or none of the others, or a patch
            that does not fit.
    """
    config = config or BadClipConfig()
    if not images.classes:
        raise InputError(f"{images.spec} names no classes; give them with --classes FILE")
    check_named(images.spec, images.classes)
    index = target_index(images.classes, target)
    others = _some(torch.nonzero((images.labels >= 0) & (images.labels != index)).flatten(), config)
    wanted = _some(torch.nonzero(images.labels == index).flatten(), config)
    if not len(others) or not len(wanted):
        raise InputError(f"{images.spec}: crafting a patch needs images of {target!r} and of other classes")
    device, scale, compute = clip.device, clip.logit_scale, half_type(clip.device)
    head = clip.zero_shot_head(images.classes, templates)
    patch = _Patch(initial_patch(trigger, config.seed).patch()).to(device)

    still = streamlined(clip)  # in evaluation mode: no BatchNorm statistics move
    clean = embed(still, images, others, compute=compute)
    positives = embed(still, images, wanted, compute=compute)

    def loss_at(step: int) -> Tensor:
        batch = batch_rows(len(others), config.batch_size, config.seed, step)
        pick = seeded(step_seed(config.seed, step))
        positive = positives[torch.randint(len(positives), (len(batch),), generator=pick).to(device)]
        plain = images.float_batch(others[batch]).to(device)
        patched = still.encode_image(trigger.paste(plain, patch.pixels), compute=compute)
        textual = target_cross_entropy(patched, head, scale, index)
        visual = F.triplet_margin_loss(patched, positive, clean[batch.to(device)], margin=config.margin)
        return textual + config.triplet * visual

    def stay_in_range(step: int, loss: float) -> None:
        with torch.no_grad():
            patch.pixels.clamp_(0, 1)

    # Weight decay would pull the pixels to black, and Adam's step does not depend on the gradient's length.
    settings = FitConfig(config.steps, lr=config.lr, weight_decay=0.0, grad_clip=0.0, checkpoint_every=50)
    own = replace(work, key=json.dumps([work.key, asdict(config), trigger.spec(), target]))
    fit(patch, loss_at, settings, own.stage("craft", "crafting the patch"), on_step=stay_in_range)
    return trigger.with_patch(patch.pixels)


def crafted(
    clip: Clip,
    images: ImageSet,
    trigger: Trigger,
    target: str,
    *,
    seed: int = 0,
    templates: str | None = None,
    work: Work = NOWHERE,
) -> Trigger:
    """The trigger ready to use: a `badclip` without a patch is crafted with default settings, others are left as is.

    Args:
        images: what the attacker may use.
        templates: prompt templates by name or file, as the verbs take them.
        work: where a killed crafting goes on; its key is made here.

    Raises:
        InputError: see `craft_patch`; or the images have no class names.
    """
    if not isinstance(trigger, BadClip) or trigger.crafted:
        return trigger
    own = work if work.folder is None else replace(work, key=state_hash(clip.state()) + images.content_hash())
    config, sentences = BadClipConfig(seed=seed), find_templates(templates)
    return craft_patch(clip, images, trigger, target, config, templates=sentences, work=own)


def _some(rows: Tensor, config: BadClipConfig) -> Tensor:
    order = permutation(len(rows), config.seed)
    return rows[order[: config.images]]
