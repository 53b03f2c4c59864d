"""Fine-tuning one tower or both: poisoning, taking the trigger vector, and the defenses that train."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torch import Tensor, nn

from unbackdoor.base.draws import check_seed, steps_per_epoch
from unbackdoor.base.errors import InputError
from unbackdoor.base.work import Stage
from unbackdoor.clip.handle import Clip
from unbackdoor.training.loop import FitConfig, FitResult, fit
from unbackdoor.training.rates import Purpose, peak_rate

LossAt = Callable[[int], Tensor]


@dataclass(frozen=True)
class TuneConfig:
    """Fine-tuning of a model.

    The defaults of the literature (AdamW, weight decay 0.1, batch 128, cosine with warm-up, clipping at 1.0:
    Ilharco et al. 2023, arXiv 2212.04089, released code) except the learning rate, which depends on the model.

    Args:
        epochs: passes over the images; `steps`, when positive, decides instead.
        lr: peak learning rate; 0 stands for "by the size of the tower" until `settle_lr` has replaced it.
        warmup: share of the steps spent warming up, at most 500 steps.
        towers: `image`, the text tower frozen, or `both`. Logit scale and bias are never trained.
    """

    epochs: int = 3
    steps: int = 0
    batch_size: int = 128
    lr: float = 0.0
    warmup: float = 0.1
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    towers: str = "image"
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.epochs < 0 or self.steps < 0 or self.batch_size < 1:
            raise InputError(
                f"epochs {self.epochs}, steps {self.steps}, batch size {self.batch_size}: "
                "give numbers of 0 or more, and a batch of at least 1"
            )
        if not 0 <= self.lr < math.inf:
            raise InputError(f"the learning rate is {self.lr}; it must be a number of 0 or more")
        if not 0 <= self.warmup <= 1 or not 0 <= self.weight_decay < math.inf:
            raise InputError(
                f"warm-up {self.warmup}, weight decay {self.weight_decay}: give a share of the steps and a number of "
                "0 or more"
            )
        if self.towers not in ("image", "both"):
            raise InputError(f"towers {self.towers!r} is neither image nor both")


def checked_lr(lr: float | None) -> float:
    """A learning rate that the user gives; 0, which stands for one by the size of the tower, where there is none.

    Raises:
        InputError: it is no finite number above 0.
    """
    if lr is not None and not 0 < lr < math.inf:
        raise InputError(f"the learning rate is {lr}; it must be a number above 0")
    return lr or 0.0


def settle_lr(tune: TuneConfig, clip: Clip, purpose: Purpose, lr: float | None = None) -> TuneConfig:
    """`tune` with its learning rate settled: `lr`, or its own, or that of the purpose (`training.rates`)."""
    if lr is None and not tune.lr:
        lr = peak_rate(purpose, clip)
    return tune if lr is None else replace(tune, lr=lr)


def settle_tune(tune: TuneConfig, clip: Clip, n: int, purpose: Purpose) -> TuneConfig:
    """`tune` with learning rate and steps settled for n images or pairs."""
    return settle_steps(settle_lr(tune, clip, purpose), n)


def settle_steps(tune: TuneConfig, n: int) -> TuneConfig:
    """`tune` with its steps settled for n images or pairs."""
    return replace(tune, steps=tune.steps or tune.epochs * steps_per_epoch(n, tune.batch_size))


def fit_config(tune: TuneConfig) -> FitConfig:
    """The loop's settings for the steps of `tune`."""
    return FitConfig(
        steps=tune.steps,
        lr=tune.lr,
        warmup=min(500, int(tune.warmup * tune.steps)),
        weight_decay=tune.weight_decay,
        betas=tune.betas,
        # Even, as a guard softens two steps at a time and remembers nothing in between.
        checkpoint_every=max(2, min(50, tune.steps // 4 // 2 * 2)),
        together=2,
    )


def tune_towers(
    clip: Clip,
    loss_at: LossAt,
    tune: TuneConfig,
    stage: Stage,
    *,
    extra: nn.Module | None = None,
    on_step: Callable[[int, float], None] | None = None,
    only: Sequence[nn.Parameter] | None = None,
) -> FitResult:
    """Train `tune.towers` in place on `loss_at(step)`, as many steps as `tune` says; everything else stays frozen.

    Args:
        stage: what the training is called, and where a killed one goes on (`Work.stage`).
        extra: trained along with the towers, such as a new head; its buffers are kept in checkpoints too.
        on_step: called after each step with (step, loss), before a checkpoint is written.
        only: of the model, what learns in place of `tune.towers`; nothing, where it is empty.

    BatchNorm statistics stay frozen too: with running statistics updating on triggered batches, subtracting the
    vector was seen to restore the attack instead of removing it.
    """
    module = clip.model if extra is None else nn.ModuleDict({"model": clip.model, "extra": extra})
    with learning(clip, clip.tower_parameters(tune.towers).values() if only is None else only):
        return fit(module, loss_at, fit_config(tune), stage, on_step=on_step)


@contextmanager
def learning(clip: Clip, wanted: Iterable[nn.Parameter]) -> Iterator[None]:
    """The model in eval mode, with gradients for `wanted` alone while the context lasts."""
    chosen = {id(p) for p in wanted}
    before = {name: p.requires_grad for name, p in clip.model.named_parameters()}
    for p in clip.model.parameters():
        p.requires_grad_(id(p) in chosen and p.is_floating_point())
    clip.model.eval()
    try:
        yield
    finally:
        for name, p in clip.model.named_parameters():
            p.requires_grad_(before[name])
            p.grad = None
