"""Anti-Backdoor Learning (Li et al. 2021, arXiv 2110.11571) after the fact: isolate likely poison, then unlearn it.

Backdoored samples are learnt faster than clean ones. Isolation trains with local gradient ascent, loss sign(L − γ)·L
per sample, which holds clean samples near γ while poison falls through; the share with the lowest loss is isolated.
Unlearning then descends on the rest and ascends on the isolated samples.

Adaptation: ABL trains from scratch on the poisoned data. Here the model is trained already, and every sample, clean or
not, has a loss near zero under it: ranked by the suspect's own loss, the isolated share is as clean as the rest. So
isolation trains a copy whose image tower starts from random weights, as ABL does, against the suspect's zero-shot head;
a copy of a pre-trained model knows the clean samples already, and poison is what it learns last. Unlearning edits the
suspect. Ascent is bounded, see `bounded_ascent`.

Isolation takes planting's learning rate, unlearning the defenses' one.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unbackdoor.base.devices import half_type
from unbackdoor.base.draws import batch_rows, seeded
from unbackdoor.base.errors import InputError
from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.defenses.base import Cure, Defender, Defense, require
from unbackdoor.defenses.bounded import bounded_ascent
from unbackdoor.defenses.stages import labeled, labeled_batch, settle
from unbackdoor.evaluation.answers import embed, logits
from unbackdoor.training.finetune import TuneConfig, tune_towers
from unbackdoor.training.losses import zero_shot_cross_entropy

STARTS = ("scratch", "pretrained", "suspect")


@dataclass(frozen=True)
class Config:
    """ABL after the fact.

    Args:
        share: of the training data, isolated, in (0, 1).
        gamma: loss γ at which local gradient ascent holds clean samples.
        start: image tower that isolation trains: `scratch`, `pretrained` or `suspect`.
        isolation_epochs: passes of that training; the paper takes 20. 0 ranks by the loss as it stands.
        descent: weight of descent on the rest against ascent; 0 ascends only.
        tune: the unlearning, 5 epochs; lr 0 stands for 1e-5 (1e-4 below 20 M parameters).
    """

    share: float = 0.01
    gamma: float = 0.5
    start: str = "scratch"
    isolation_epochs: int = 2
    descent: float = 1.0
    tune: TuneConfig = field(default_factory=lambda: TuneConfig(epochs=5, batch_size=64))


@torch.no_grad()
def reinitialize(clip: Clip, images: Tensor, seed: int) -> None:
    """Random weights for the image tower, in place; BatchNorm takes its statistics from `images` (B, 3, S, S)."""
    generator = seeded(seed)
    norms = {id(p) for m in clip.model.modules() if "Norm" in type(m).__name__ for p in m.parameters(recurse=False)}
    for name, p in clip.image_parameters().items():
        if id(p) in norms or (p.ndim < 2 and name.endswith("bias")):
            p.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            inputs = p[0].numel() if p.ndim > 1 else p.numel()
            p.copy_(torch.randn(p.shape, generator=generator) / inputs**0.5)
    batch_norms = [m for m in clip.image_module().modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [m.momentum for m in batch_norms]
    for m in batch_norms:
        m.momentum = 1.0
        m.train()
    clip.encode_image(images.to(clip.device))
    for m, momentum in zip(batch_norms, before, strict=True):
        m.momentum = momentum
    clip.model.eval()


def held_up(losses: Tensor, gamma: float) -> Tensor:
    """Local gradient ascent of losses (B,): descends above γ, ascends below."""
    return (torch.sign(losses.detach() - gamma) * losses).mean()


def sample_losses(clip: Clip, images: ImageSet, head: Tensor) -> Tensor:
    """Cross-entropy (N,) of every image with its label, in float64: a certain model's differ far behind the point."""
    rows = (clip.logit_scale * embed(clip, images) @ head.T).double()
    return F.cross_entropy(rows, images.labels.to(rows.device), reduction="none").cpu()


def isolate(clip: Clip, training: ImageSet, head: Tensor, config: Config, work: Work) -> tuple[Tensor, int]:
    """Rows of the likely poison, the likeliest first, and the steps it took; trains `clip` in place."""
    tune = replace(config.tune, epochs=config.isolation_epochs, lr=0.0, warmup=0.0)
    if config.isolation_epochs:
        tune = settle(tune, clip, len(training), "planting")
        compute = half_type(clip.device)

        def loss_at(step: int) -> Tensor:
            images, labels = labeled_batch(training, tune, step, clip.device)
            losses = F.cross_entropy(logits(clip, images, head, compute=compute), labels, reduction="none")
            return held_up(losses, config.gamma)

        tune_towers(clip, loss_at, tune, work.stage("isolation"))
    count = max(1, round(config.share * len(training)))
    return sample_losses(clip, training, head).argsort()[:count], tune.steps if config.isolation_epochs else 0


def defend(clip: Clip, data: Defender, config: Config, work: Work) -> Cure:
    """Isolate and unlearn, in place."""
    require("abl", "the suspect's own training data", data.training)
    assert data.training is not None
    if not 0 < config.share < 1:
        raise InputError(f"defense abl: share {config.share} must lie in (0, 1)")
    if config.start not in STARTS:
        raise InputError(f"defense abl: start {config.start!r} is none of {', '.join(STARTS)}")
    if config.start == "pretrained":
        require("abl", "the pre-trained model to start from", data.pretrained)
    began = time.perf_counter()
    training = labeled("abl", data.training(), "training images")
    tune = settle(config.tune, clip, len(training))
    start = (data.pretrained if config.start == "pretrained" and data.pretrained else clip).clone().to(clip.device)
    if config.start == "scratch":
        reinitialize(start, training.float_batch(range(min(tune.batch_size, len(training)))), tune.seed)
    suspects, isolation_steps = isolate(start, training, data.head, config, work)
    rest = torch.ones(len(training), dtype=torch.bool)
    rest[suspects] = False
    kept, marked = training.subset(rest), training.subset(suspects)
    if not len(kept):
        raise InputError("defense abl: too few training images to isolate some and keep others")
    scale, compute = clip.logit_scale, half_type(clip.device)
    few = max(1, tune.batch_size // 4)

    def loss_at(step: int) -> Tensor:
        images, labels = labeled_batch(kept, tune, step, clip.device)
        rows = batch_rows(len(marked), few, tune.seed, step)
        bad, bad_labels = marked.float_batch(rows).to(clip.device), marked.labels[rows].to(clip.device)
        good, forgotten = clip.encode_image(torch.cat([images, bad]), compute=compute).split([len(images), len(bad)])
        ascent = bounded_ascent(scale * forgotten @ data.head.T, bad_labels)
        return config.descent * zero_shot_cross_entropy(good, data.head, scale, labels) + ascent

    run = tune_towers(clip, loss_at, tune, work.stage("abl", "unlearning"))
    return Cure(
        len(training),
        len(training),
        tune.steps + isolation_steps,
        time.perf_counter() - began,
        facts={
            "isolated": sorted(suspects.tolist()),
            "start": config.start,
            "isolated_labels": torch.bincount(marked.labels, minlength=len(data.head)).tolist(),
            "tune": asdict(tune),
            "losses": run.losses,
        },
    )


DEFENSE = Defense(Config(), defend)
