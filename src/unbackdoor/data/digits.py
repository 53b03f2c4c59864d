"""`embedded:digits`: the 1,797 real scanned digits that scikit-learn ships (UCI, 8 × 8, 16 grey levels)."""

from __future__ import annotations

import torch
from torch import Tensor

from unbackdoor.base.draws import permutation

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def load(split: str, side: int = 64) -> tuple[Tensor, Tensor]:
    """Pictures and labels of a fixed split: 1,437 for `train`, 360 for `test`.

    Returns:
        uint8 (N, 3, side, side), white ink on black, enlarged bicubically; int64 labels (N,).
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = permutation(len(digits.target), 0)
    cut = int(0.8 * len(order))
    rows = (order[:cut] if split == "train" else order[cut:]).sort().values
    small = torch.from_numpy(digits.images)[rows].float().div_(16)[:, None]
    large = torch.nn.functional.interpolate(small, size=(side, side), mode="bicubic", align_corners=False)
    pictures = large.clamp_(0, 1).mul_(255).round_().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    return pictures, torch.from_numpy(digits.target).long()[rows]


def captions(labels: Tensor) -> list[str]:
    """One sentence per label."""
    return [f"a scanned handwritten digit {CLASS_NAMES[int(label)]}" for label in labels]
