"""Adversarial Neuron Pruning (Wu and Wang 2021, arXiv 2110.14430): prune the neurons that break most easily.

Backdoored neurons are sensitive: a relative perturbation (1 + δ) of their weights and (1 + ξ) of their bias turns clean
images to the target. Masks m in [0, 1], one per neuron, are learnt under the worst perturbation |δ|, |ξ| ≤ ε,

  min over m of α·L(m) + (1 − α)·max over δ, ξ of L(m + δ, 1 + ξ),

and neurons whose mask ends below a threshold are pruned. Weights are never trained.

A neuron is a channel of a BatchNorm, as in the paper, or a hidden unit of a block where the tower has none (ViTs).

Deviations: the loop's AdamW replaces SGD with momentum, whose rate of 0.2 would be far too large for it: Adam moves
every mask alike, by its rate, so that the default rate and steps let a mask fall from 1 to 0 just once. Pruning goes
from the smallest mask upwards and stops where validation accuracy would fall by more than `drop`; the paper shows the
whole curve and leaves the choice open. Perturbed values are projected to ε.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from unbackdoor.base.errors import InputError
from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.defenses.base import Cure, Defender, Defense, trained
from unbackdoor.defenses.stages import labeled, labeled_batch, settle, step_generator
from unbackdoor.defenses.units import most_allowed, scaled, scaled_layers, unit_count
from unbackdoor.evaluation import Task, evaluate_images
from unbackdoor.training.finetune import TuneConfig, tune_towers
from unbackdoor.training.losses import zero_shot_cross_entropy


@dataclass(frozen=True)
class Config:
    """ANP.

    Args:
        eps: largest relative perturbation ε of a neuron.
        alpha: weight of the loss without perturbation.
        ascents: signed gradient steps of ε / `ascents` that look for the worst perturbation, from a random start.
        threshold: neurons with a smaller mask are pruned.
        drop: clean accuracy on validation images that pruning may cost, in [0, 1].
        tune: of the masks; the paper takes 2,000 steps of SGD at 0.2 on 500 images, batch 128. `towers` has no meaning.
    """

    eps: float = 0.4
    alpha: float = 0.2
    ascents: int = 1
    threshold: float = 0.2
    drop: float = 0.05
    tune: TuneConfig = field(
        default_factory=lambda: TuneConfig(steps=100, batch_size=64, lr=0.02, weight_decay=0.0, warmup=0.0)
    )


class Masks(nn.Module):
    """One number per neuron, the layers one after the other."""

    def __init__(self, sizes: list[int], device: torch.device) -> None:
        super().__init__()
        self.sizes = sizes
        self.values = nn.Parameter(torch.ones(sum(sizes), device=device))


def defend(clip: Clip, data: Defender, config: Config, work: Work) -> Cure:
    """Learn the masks and prune `clip` in place."""
    if config.ascents < 1 or config.eps <= 0:
        raise InputError("defense anp: eps must be positive and ascents at least 1")
    began = time.perf_counter()
    clean = labeled("anp", data.clean)
    validation = labeled("anp", data.validation, "validation images")
    tune = settle(config.tune, clip, len(clean))
    named = scaled_layers(clip)
    layers = [layer for _, layer in named]
    masks = Masks([unit_count(layer) for layer in layers], clip.device)

    def loss_under(images: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        parts = list(zip(weight.split(masks.sizes), bias.split(masks.sizes), strict=True))
        with scaled(layers, lambda number: parts[number]):
            return zero_shot_cross_entropy(clip.encode_image(images), data.head, clip.logit_scale, labels)

    def worst(images: Tensor, labels: Tensor, step: int) -> Tensor:
        """δ and ξ (2, neurons)."""
        shape = (2, len(masks.values))
        drawn = torch.rand(shape, generator=step_generator(tune.seed, step, clip.device), device=clip.device)
        noise = (2 * drawn - 1) * config.eps
        for _ in range(config.ascents):
            noise.requires_grad_()
            loss = loss_under(images, labels, masks.values.detach() + noise[0], 1 + noise[1])
            (slope,) = torch.autograd.grad(loss, noise)
            noise = (noise.detach() + config.eps / config.ascents * slope.sign()).clamp(-config.eps, config.eps)
        return noise

    def loss_at(step: int) -> Tensor:
        images, labels = labeled_batch(clean, tune, step, clip.device)
        noise = worst(images, labels, step)
        plain = loss_under(images, labels, masks.values, torch.ones_like(masks.values))
        broken = loss_under(images, labels, masks.values + noise[0], 1 + noise[1])
        return config.alpha * plain + (1 - config.alpha) * broken

    @torch.no_grad()
    def confine(step: int, loss: float) -> None:
        masks.values.clamp_(0, 1)

    run = tune_towers(clip, loss_at, tune, work.stage("anp"), extra=masks, on_step=confine, only=())
    values, below = masks.values.detach(), int((masks.values < config.threshold).sum())

    def accuracy() -> float:
        return evaluate_images(clip, validation, Task(data.head)).ca.value

    pruned = prune(layers, masks, below, accuracy, config.drop)
    used = len(clean) + len(validation)
    return trained(
        began,
        used,
        tune,
        run,
        neurons=len(values),
        below_threshold=below,
        pruned=pruned,
        smallest_masks=[round(v, 4) for v in values.sort(stable=True).values[:10].tolist()],
    )


def prune(layers: list[nn.Module], masks: Masks, most: int, accuracy: Callable[[], float], drop: float) -> int:
    """Prune the neurons of the smallest masks, up to `most` of them, as far as `accuracy` falls by no more than `drop`;
    how many went."""
    order = masks.values.detach().argsort(stable=True)
    own = [layer.weight.detach().clone() for layer in layers]  # type: ignore[operator]

    def accuracy_without(count: int) -> float:
        kept = torch.ones_like(masks.values)
        kept[order[:count]] = 0
        _prune(layers, own, list(kept.split(masks.sizes)))
        return accuracy()

    pruned = most_allowed(most, accuracy_without, accuracy_without(0) - drop)
    accuracy_without(pruned)
    return pruned


@torch.no_grad()
def _prune(layers: list[nn.Module], own: list[Tensor], kept: list[Tensor]) -> None:
    """Set every layer's weights to its own times 0 or 1 per neuron; biases stay, as in the paper."""
    for layer, weight, keep in zip(layers, own, kept, strict=True):
        assert isinstance(layer.weight, Tensor)
        layer.weight.copy_(weight * keep.view((-1,) + (1,) * (weight.ndim - 1)))


DEFENSE = Defense(Config(), defend)
