"""DECREE: a small stamp that gives every picture the same embedding, from the image encoder alone.

Feng et al. 2023 (arXiv 2303.15180, section 4): minimise −mean cos(f(x_i), f(x_j)) over pairs i ≠ j plus λ‖m‖₁, λ raised
while the stamped pictures agree and lowered while they do not; the outcome is the smallest mask that made them agree.
The statistic is −log(the mask's share).

Ours differs in this: the model's own preprocessing, frozen weights, several restarts in one batch, the mean over pairs
from the sum of the embeddings (linear in the batch, not quadratic), one mask for all channels kept as such, and a step
budget in place of a thousand epochs. The mask's share is compared with a calibrated null, never with a fixed 0.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unbackdoor.base.draws import batch_rows, seeded, step_seed
from unbackdoor.evaluation.answers import answers
from unbackdoor.scan.inverters import patch
from unbackdoor.scan.inverters.base import Asked, Effort, Inverter, Recovered, Subject, try_out
from unbackdoor.triggers.masked import Masked, blend


@dataclass(frozen=True)
class CollapseConfig:
    """DECREE's constants for CLIP, but for the budget.

    Args:
        steps: of Adam, β = (0.5, 0.9).
        restarts: starting points searched in one batch; the one with the smallest mask counts.
        pictures: of a step, for each restart.
        lr: 0.5 as in the released code's first epochs.
        agreement: mean cosine of stamped pictures at which they count as one.
        cost: λ to begin with, on the mask's share of the picture.
        factor, patience: λ changes by this factor after so many steps of agreement, or of none.
    """

    steps: int = 60
    restarts: int = 2
    pictures: int = 32
    lr: float = 0.5
    agreement: float = 0.99
    cost: float = 1.0
    factor: float = 1.5
    patience: int = 2


def mean_cosine(embeddings: Tensor) -> Tensor:
    """Mean cosine over pairs i ≠ j of unit rows (…, N, D) → (…)."""
    n = embeddings.shape[-2]
    return (embeddings.sum(dim=-2).pow(2).sum(dim=-1) - n) / (n * (n - 1))


def start(restarts: int, side: int, generator: torch.Generator) -> Tensor:
    """Raw mask and pattern (R, 4, S, S), uniform in [0, 1] after `shown`."""
    uniform = torch.rand(restarts, 4, side, side, generator=generator)
    return (2 * uniform - 1).clamp(-0.999, 0.999).atanh()


def as_stamp(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Mask (R, 1, S, S) and pattern (R, 3, S, S) in [0, 1]."""
    unit = (raw.tanh() + 1) / 2
    return unit[:, :1], unit[:, 1:]


def invert(subject: Subject, config: CollapseConfig | None = None) -> Recovered:
    """See the module's first lines; the norm is the mask's share of the picture."""
    config = config or CollapseConfig()
    generator = seeded(step_seed(subject.seed, 1))
    raw = start(config.restarts, subject.clip.image_size, generator).to(subject.clip.device).requires_grad_(True)
    price = torch.full((config.restarts,), config.cost, device=raw.device)
    streak = torch.zeros(config.restarts, dtype=torch.int64, device=raw.device)
    best = torch.full((config.restarts,), float("inf"), device=raw.device)
    kept = raw.detach().clone()
    closest = torch.full_like(best, -1.0)
    optimizer = torch.optim.Adam([raw], lr=config.lr, betas=(0.5, 0.9))
    for step in range(config.steps):
        rows = batch_rows(len(subject.images), config.pictures, subject.seed, step)
        agreement, share = stamped(subject, raw, rows)
        optimizer.zero_grad(set_to_none=True)
        (price * share - agreement).sum().backward()
        with torch.no_grad():
            agreed = agreement > config.agreement
            smaller = agreed & (share < best)
            # Until the pictures agree once, the stamp that came nearest is kept.
            nearer = ~torch.isfinite(best) & (agreement > closest)
            kept[smaller | nearer] = raw[smaller | nearer]
            best = torch.where(smaller, share, best)
            closest = torch.maximum(closest, agreement)
            streak = torch.where(agreed, streak.clamp_min(0) + 1, streak.clamp_max(0) - 1)
            price = torch.where(streak >= config.patience, price * config.factor, price)
            price = torch.where(streak <= -config.patience, price / config.factor, price)
            streak = torch.where(streak.abs() >= config.patience, 0, streak)
        optimizer.step()
    norms = torch.where(torch.isfinite(best), best, 1.0)
    # A restart that never agreed is worse than any that did, by as much as it lacked.
    score = -norms.log() - 100 * (config.agreement - closest).clamp_min(0)
    top = int(score.argmax())
    mask, pattern = as_stamp(kept[top : top + 1])
    trigger = Masked.of(mask[0], pattern[0])
    _, embeddings = answers(subject.clip, subject.held, subject.head, trigger)
    target = int((embeddings.mean(dim=0) @ subject.head.T.cpu()).argmax())
    strength, embedding = try_out(subject, trigger, target)
    return Recovered(
        "collapse",
        trigger,
        target,
        embedding,
        float(norms[top]),
        strength,
        float(score[top]),
        {target: float(score[top])},
        {
            "share": [round(float(v), 5) for v in norms],
            "agreement": [round(float(v), 4) for v in closest],
        },
    )


def stamped(subject: Subject, raw: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cosine of stamped pictures and share of the mask, both (R,)."""
    mask, pattern = as_stamp(raw)
    batch = subject.images.float_batch(rows).to(raw.device)
    r, n = len(raw), len(rows)
    pictures = batch.expand(r, *batch.shape).reshape(r * n, *batch.shape[1:])
    embeddings = subject.clip.encode_image(blend(pictures, mask, pattern))
    return mean_cosine(embeddings.view(r, n, -1)), mask.flatten(1).mean(dim=1)


def effort(asked: Asked) -> Effort:
    """The same however many classes there are."""
    config = CollapseConfig()
    return Effort(config.steps * config.restarts * config.pictures, 2 * config.pictures)


# Feature collapse has no target of its own; what it finds is a patch.
INVERTER = Inverter(3, invert, patch.family, effort=effort)
