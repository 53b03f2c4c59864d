"""Fine-pruning (Liu et al. 2018, arXiv 1805.12185): cut the units that clean images leave dormant, then fine-tune.

A backdoor likes to live in units that clean images do not need. Units of the last hidden layers are ranked by their
mean activation on clean images and cut from the least active upwards, as far as clean accuracy allows; fine-tuning on
clean labels then repairs what pruning broke and dislodges a backdoor that shares its units with the task.

Deviations: the paper prunes the last convolution. Here it is the last layer whose units have a single reader (the first
of a block's two convolutions, the second of a bottleneck's three, the hidden layer of a transformer's MLP), because a
block's output also flows past it; a unit is cut by zeroing its outgoing weights, which fine-tuning holds at zero.
Fine-tuning is against the frozen zero-shot head, so that the model stays a zero-shot CLIP.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unbackdoor.base.devices import half_type
from unbackdoor.base.errors import InputError
from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.defenses.base import Cure, Defender, Defense, trained
from unbackdoor.defenses.stages import labeled, labeled_batch, settle
from unbackdoor.defenses.units import Hidden, hidden_units, mean_activation, most_allowed
from unbackdoor.evaluation import Task, evaluate_images
from unbackdoor.training.finetune import TuneConfig, tune_towers
from unbackdoor.training.losses import zero_shot_cross_entropy


@dataclass(frozen=True)
class Config:
    """Pruning and fine-tuning.

    Args:
        layers: how many of the last hidden layers, the last one first.
        drop: clean accuracy on validation images that pruning may cost in all, in [0, 1].
        tune: the fine-tuning; lr 0 stands for 1e-5 (1e-4 below 20 M parameters).
    """

    layers: int = 1
    drop: float = 0.04
    tune: TuneConfig = field(default_factory=lambda: TuneConfig(epochs=10, batch_size=64))


def defend(clip: Clip, data: Defender, config: Config, work: Work) -> Cure:
    """Prune and fine-tune `clip` in place."""
    if not 0 <= config.drop <= 1 or config.layers < 1:
        raise InputError(f"defense fine-pruning: layers ≥ 1 and drop in [0, 1], not {config.layers} and {config.drop}")
    began = time.perf_counter()
    clean = labeled("fine-pruning", data.clean)
    validation = labeled("fine-pruning", data.validation, "validation images")
    tune = settle(config.tune, clip, len(clean))
    scale, compute = clip.logit_scale, half_type(clip.device)
    task = Task(data.head)
    floor = evaluate_images(clip, validation, task).ca.value - config.drop
    cut: list[tuple[Hidden, Tensor]] = []
    facts = {}
    for hidden in reversed(hidden_units(clip)[-config.layers :]):
        order, own = mean_activation(clip, clean, hidden).argsort(), hidden.outgoing.clone()

        def accuracy(count: int, hidden: Hidden = hidden, order: Tensor = order, own: Tensor = own) -> float:
            hidden.outgoing.copy_(own)
            silence(hidden, order[:count])
            return evaluate_images(clip, validation, task).ca.value

        count = most_allowed(len(order), accuracy, floor)
        accuracy(count)
        cut.append((hidden, order[:count]))
        facts[hidden.name] = {"units": len(order), "pruned": count}

    def loss_at(step: int) -> Tensor:
        images, labels = labeled_batch(clean, tune, step, clip.device)
        return zero_shot_cross_entropy(clip.encode_image(images, compute=compute), data.head, scale, labels)

    def hold(step: int, loss: float) -> None:
        for hidden, units in cut:
            silence(hidden, units)

    run = tune_towers(clip, loss_at, tune, work.stage("fine-pruning"), on_step=hold)
    used = len(clean) + len(validation)
    return trained(began, used, tune, run, layers=facts)


@torch.no_grad()
def silence(hidden: Hidden, units: Tensor) -> None:
    """Zero what leaves the units (n,), in place."""
    hidden.outgoing[:, units] = 0


DEFENSE = Defense(Config(), defend)
