"""Peak learning rates: one table, by what is trained and by the size of the image tower."""

from __future__ import annotations

from typing import Literal, NamedTuple

from unbackdoor.clip.handle import Clip

SMALL_TOWER = 20_000_000  # parameters of the image tower; below that it is small

Purpose = Literal["planting", "twin", "clone", "cure", "par", "supervised", "linear head", "vector"]


class Peak(NamedTuple):
    """The peak rate of a small tower and of a large one."""

    small: float
    large: float


# 1e-5 for full-size image towers is the task-vector literature's (arXiv 2212.04089). Small towers need more.
PEAKS: dict[Purpose, Peak] = {
    # Measured on the embedded model: at 1e-3 four epochs of CIFAR-10 plant patch and warp at 99.9% with the clean
    # accuracy of 3e-3, and the gentler suspect is cheaper to cure.
    "planting": Peak(1e-3, 1e-5),
    "twin": Peak(1e-3, 1e-5),  # learns the suspect's task as planting does
    "clone": Peak(3e-4, 1e-5),  # a little fine-tuning; each clone takes 1/3 to 3 times this
    "cure": Peak(1e-4, 1e-5),  # where a defence's paper speaks of full-size towers; RoCLIP pre-trains at 5e-5
    "par": Peak(1e-4, 3e-5),  # the paper's peak
    "supervised": Peak(1e-4, 1e-4),  # CleanCLIP's for ImageNet labels; BadCLIP's scripts take 1e-6
    "linear head": Peak(1e-3, 1e-3),  # CleanCLIP's; the head does not know how large the tower is
    # Towards the target, as published; the small tower's was chosen on the embedded model. The way back to clean images
    # knows no size (`unlearning.vector`).
    "vector": Peak(1e-4, 1e-5),
}


def peak_rate(purpose: Purpose, clip: Clip) -> float:
    """The rate at which `clip` is trained for a purpose, where nobody asks for another."""
    size = sum(p.numel() for p in clip.image_parameters().values())
    peak = PEAKS[purpose]
    return peak.small if size < SMALL_TOWER else peak.large
