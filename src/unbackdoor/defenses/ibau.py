"""I-BAU (Zeng et al. 2022, arXiv 2110.03735): adversarial unlearning of backdoors by the implicit hypergradient.

min over θ of max over ‖δ‖ ≤ C of H(δ, θ), the mean cross-entropy of clean images x + δ under one δ for all: whatever
universal perturbation still misleads the model, the true trigger among them, is unlearnt. The gradient in θ accounts
for the maximum's own movement with θ:

  ∇H = ∂H/∂θ + (∂δ*/∂θ)ᵀ ∂H/∂δ,

its second term by `fixed_point` iterations v ← (∂Φ/∂δ)ᵀ v + ∂H/∂δ of the map Φ(δ) = δ − η·∂L/∂δ, with
L = −H + 0.001·‖δ‖², as in the released code.

Deviations: δ restarts from zero each round of one epoch, as released, but climbs by steps of fixed length, because the
gradient of a suspect that is certain vanishes; C is 10 for 32 × 32 pixels and grows with the side; half of each batch
carries δ in the outer loss and half is clean (the paper's formula has all, the released code one in a hundred); the
classifier is the frozen zero-shot head. Computed in float32: second derivatives suffer from half precision.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from unbackdoor.base.draws import batch_rows, steps_per_epoch
from unbackdoor.base.errors import InputError
from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.defenses.base import Cure, Defender, Defense, trained
from unbackdoor.defenses.stages import images_used, labeled, labeled_batch, settle
from unbackdoor.training.finetune import TuneConfig, tune_towers
from unbackdoor.training.losses import zero_shot_cross_entropy


@dataclass(frozen=True)
class Config:
    """I-BAU.

    Args:
        bound: C, the largest Euclidean norm of δ, for images of 32 × 32 pixels.
        climbs: steps of the inner maximisation at the start of each round, each of length 2·C / `climbs`.
        fixed_point: K, iterations for the implicit gradient; 0 leaves plain alternating minimax.
        eta: step η of the map Φ.
        patched: share of each batch that carries δ in the outer loss, in (0, 1].
        tune: 5 rounds; the paper's Adam rate of 1e-3 is for classifiers trained from scratch on CIFAR: lr 0 stands for
            1e-5 (1e-4 below 20 M parameters).
    """

    bound: float = 10.0
    climbs: int = 10
    fixed_point: int = 5
    eta: float = 0.1
    patched: float = 0.5
    tune: TuneConfig = field(default_factory=lambda: TuneConfig(epochs=5, batch_size=64, weight_decay=0.0, warmup=0.0))


class Perturbation(nn.Module):
    """δ (1, 3, S, S) of the current round; a buffer, so that a resumed run has the δ it was killed with."""

    delta: Tensor

    def __init__(self, side: int, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("delta", torch.zeros(1, 3, side, side, device=device))


def defend(clip: Clip, data: Defender, config: Config, work: Work) -> Cure:
    """Unlearn universal perturbations in place."""
    if config.bound <= 0 or config.climbs < 1 or not 0 < config.patched <= 1:
        raise InputError("defense ibau: bound must be positive, climbs at least 1 and patched in (0, 1]")
    began = time.perf_counter()
    clean = labeled("ibau", data.clean)
    tune = settle(config.tune, clip, len(clean))
    per_round = steps_per_epoch(len(clean), tune.batch_size)
    side = clean.images.shape[-1]
    bound = config.bound * side / 32
    state = Perturbation(side, clip.device)

    def entropy(images: Tensor, labels: Tensor) -> Tensor:
        return zero_shot_cross_entropy(clip.encode_image(images), data.head, clip.logit_scale, labels)

    def climb(round_: int) -> None:
        """The worst δ of this round, from zero."""
        delta = torch.zeros_like(state.delta)
        for i in range(config.climbs):
            rows = batch_rows(len(clean), tune.batch_size, tune.seed, round_ * per_round + i)
            images, labels = clean.float_batch(rows).to(clip.device), clean.labels[rows].to(clip.device)
            delta.requires_grad_()
            (slope,) = torch.autograd.grad(entropy(images + delta, labels), delta)
            delta = delta.detach() + 2 * bound / config.climbs * slope / slope.norm().clamp_min(1e-20)
            delta = delta * (bound / delta.norm().clamp_min(1e-20)).clamp(max=1)
        state.delta.copy_(delta)

    def loss_at(step: int) -> Tensor:
        round_, within = divmod(step, per_round)
        if not within:
            climb(round_)
        images, labels = labeled_batch(clean, tune, step, clip.device)
        delta = state.delta.clone().requires_grad_()
        count = max(1, round(config.patched * len(images)))
        outer = entropy(torch.cat([images[:count] + delta, images[count:]]), labels)
        if not config.fixed_point:
            return outer
        (slope,) = torch.autograd.grad(outer, delta, retain_graph=True)
        with differentiable_twice():
            inner = -entropy(images + delta, labels) + 0.001 * delta.pow(2).sum()
            (inner_slope,) = torch.autograd.grad(inner, delta, create_graph=True)
            v = torch.zeros_like(slope)
            for _ in range(config.fixed_point):
                (bent,) = torch.autograd.grad(inner_slope, delta, v, retain_graph=True)
                v = fixed_point_step(v, bent, slope, config.eta)
        # Of the surrogate's gradient in θ, the first part is ∂H/∂θ and the second (∂Φ/∂θ)ᵀ v.
        # Its own value is taken out again, so that the loss reported is H.
        implicit = -config.eta * (inner_slope * v.detach()).sum()
        return outer + implicit - implicit.detach()

    run = tune_towers(clip, loss_at, tune, work.stage("ibau", "I-BAU"), extra=state)
    used = images_used(clean, tune)
    return trained(began, used, tune, run, bound=bound)


def fixed_point_step(v: Tensor, bent: Tensor, slope: Tensor, eta: float) -> Tensor:
    """v ← (∂Φ/∂δ)ᵀ v + ∂H/∂δ with Φ(δ) = δ − η·∂L/∂δ; `bent` is the Hessian of L times v, `slope` is ∂H/∂δ."""
    return v - eta * bent + slope


@contextmanager
def differentiable_twice() -> Iterator[None]:
    """Attention by plain products: the fused kernels have no second derivative."""
    attention = getattr(torch.nn, "attention", None)
    if attention is None:  # before torch 2.3
        with torch.backends.cuda.sdp_kernel(enable_flash=False, enable_math=True, enable_mem_efficient=False):
            yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel([SDPBackend.MATH]):
        yield


DEFENSE = Defense(Config(), defend)
