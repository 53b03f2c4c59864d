"""Steps that clean images do not feel: a guard over every weight, learnt from a few of them, without labels.

What a weight matrix W does to clean embeddings shows in its gradients there: directions of its input that clean images
use carry them, others do not. With R the gradients' second moment over the input side, a step is multiplied by
(R/λ + I)⁻¹, which takes it out of the directions used and leaves it whole in the others. Null spaces of features serve
continual learning in the same way (Adam-NSCL, Wang et al. 2021, CVPR, section 3); here the projection is soft, and
gradients of random projections of the embedding take the place of layers' inputs, so that any architecture will do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from unbackdoor.base.draws import seeded
from unbackdoor.clip.handle import Clip


@dataclass(frozen=True)
class Guard:
    """Factors by parameter name: (in, in) for tensors of two or more dimensions, elementwise for the rest."""

    factors: Mapping[str, Tensor]

    def soften(self, name: str, step: Tensor) -> Tensor:
        """`step` (a change of the named parameter), less what clean embeddings would feel of it."""
        factor = self.factors[name]
        if step.ndim < 2:
            return step * factor
        change = step.to(factor.dtype)
        if step.ndim == 2:
            return (change @ factor).to(step.dtype)
        return torch.einsum("oik,ij->ojk", change.flatten(2), factor).reshape(step.shape).to(step.dtype)


def learn_guard(
    clip: Clip, batches: Iterable[Tensor], strength: float, *, seed: int = 0, compute: torch.dtype | None = None
) -> Guard:
    """The guard of `clip`'s image tower.

    Args:
        batches: clean images (B, 3, H, W) in [0, 1]; each batch is one draw. Eight batches of 32 do.
        strength: λ as a share of R's mean eigenvalue, above 0; the smaller, the stricter.
        seed: of the random projections.
        compute: type of the tower's products and of the factors of matrices, None for the weights' own.
    """
    weights = clip.image_parameters()
    trained = {name: p.requires_grad for name, p in weights.items()}
    generator = seeded(seed)
    felt: dict[str, Tensor] = {}
    clip.model.eval()
    try:
        for p in weights.values():
            p.requires_grad_(True)
        for images in batches:
            with torch.enable_grad():
                embeddings = clip.encode_image(images.to(clip.device), compute=compute)
                # Signs of different images do not add up, so that one pass stands for a whole batch.
                sides = torch.randn(embeddings.shape, generator=generator).to(embeddings.device)
                gradients = torch.autograd.grad((embeddings * sides).sum(), list(weights.values()), allow_unused=True)
            for name, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    moment = _moment(gradient)
                    felt[name] = felt[name] + moment if name in felt else moment
    finally:
        for name, p in weights.items():
            p.requires_grad_(trained[name])
    factors = {name: _factor(felt[name], strength) if name in felt else _whole(p) for name, p in weights.items()}
    return Guard({n: f.to(compute) if compute is not None and weights[n].ndim > 1 else f for n, f in factors.items()})


def guarded(
    guard: Guard, weights: Mapping[str, Tensor], steps: int, every: int = 1
) -> tuple[Callable[[int], None], Callable[[int], None]]:
    """Two calls for a training loop, `before(step)` and `after(step)`, which takes from steps what the guard forbids.

    Softening gradients instead would not do: Adam scales every element, and the directions are lost.

    Args:
        steps: of the whole run; the last is softened in any case.
        every: soften so many steps at a time, which costs less where matrices are large.
    """
    kept: dict[str, Tensor] = {}

    def before(step: int) -> None:
        if step % every == 0 or not kept:
            kept.update({name: w.detach().clone() for name, w in weights.items()})

    @torch.no_grad()
    def after(step: int) -> None:
        if (step + 1) % every == 0 or step + 1 == steps:
            for name, w in weights.items():
                w.copy_(kept[name] + guard.soften(name, w - kept[name]))

    return before, after


def _moment(gradient: Tensor) -> Tensor:
    """Second moment over the input side, the second dimension; a kernel's places are added up."""
    if gradient.ndim < 2:
        return gradient.square()
    places = gradient.unsqueeze(-1) if gradient.ndim == 2 else gradient.flatten(2)
    return torch.einsum("oik,ojk->ij", places, places)


def _factor(moment: Tensor, strength: float) -> Tensor:
    if moment.ndim < 2:
        return 1 / (1 + moment / (strength * moment.mean()).clamp(min=1e-30))
    scaled = moment / (strength * moment.diagonal().mean()).clamp(min=1e-30)
    return torch.cholesky_inverse(torch.linalg.cholesky(scaled + torch.eye(len(scaled), device=scaled.device)))


def _whole(weight: Tensor) -> Tensor:
    """Of a weight that no clean image feels."""
    if weight.ndim < 2:
        return torch.ones_like(weight)
    return torch.eye(weight.shape[1], device=weight.device)
