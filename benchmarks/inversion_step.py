"""One step of feature-collapse inversion: DECREE's released formulation against ours, in one run.

    python benchmarks/inversion_step.py --model random:ViT-B-32 --model random:RN50 --steps 6

Both start from the same raw mask and pattern and see the same pictures; the losses of every step must agree before a
ratio is worth anything, and are printed. The reference is written from a description of the released code, not copied:
every weight asks for a gradient, pictures are in 0 to 255 and made float, blended and normalised one by one, the mask
is kept three times, and cosines are taken pair by pair from the whole matrix. Ours: the streamlined copy of the model
(`clip/streamline.py`: frozen weights, BatchNorms folded, patches and attention as plain products, channels last for
convolutions), one batched blend in [0, 1], the mean over pairs from the sum of the embeddings. Steps alternate.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from unbackdoor.clip.handle import Clip
from unbackdoor.clip.load import load
from unbackdoor.clip.streamline import streamlined
from unbackdoor.scan.inverters.collapse import as_stamp, mean_cosine, start
from unbackdoor.triggers.masked import blend

LR, BETAS, PRICE = 0.5, (0.5, 0.9), 1.0


def reference_loss(clip: Clip, pixels: Tensor, raw: Tensor) -> Tensor:
    """The released code's arithmetic; `raw` is (4, S, S), `pixels` uint8 (N, 3, S, S)."""
    mask = ((raw[:1].tanh() + 1) / 2).expand(3, -1, -1)
    pattern = 255 * (raw[1:].tanh() + 1) / 2
    mean = torch.tensor(clip.mean).view(3, 1, 1)
    std = torch.tensor(clip.std).view(3, 1, 1)
    inputs = []
    for picture in pixels:
        stamped = (1 - mask) * picture.float() + mask * pattern
        inputs.append((stamped / 255 - mean) / std)
    features = F.normalize(clip.format.image(clip.model, torch.stack(inputs)).float(), dim=-1)
    cosines = features @ features.T
    others = ~torch.eye(len(features), dtype=torch.bool)
    return PRICE * mask.mean() - cosines[others].mean()


def our_loss(clip: Clip, pixels: Tensor, raw: Tensor) -> Tensor:
    """`scan.inverters.collapse`'s arithmetic for one restart."""
    mask, pattern = as_stamp(raw[None])
    embeddings = clip.encode_image(blend(pixels.float().div_(255), mask, pattern))
    return PRICE * mask.mean() - mean_cosine(embeddings)


class Run:
    """A search that advances step by step, with the losses and seconds of every step."""

    def __init__(self, loss_of: Callable[[Tensor], Tensor], raw: Tensor) -> None:
        self.loss_of, self.raw = loss_of, raw.clone().requires_grad_(True)
        self.optimizer = torch.optim.Adam([self.raw], lr=LR, betas=BETAS)
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def step(self) -> None:
        """One step of Adam."""
        began = time.perf_counter()
        loss = self.loss_of(self.raw)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.losses.append(float(loss.detach()))
        self.seconds.append(time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--pictures", type=int, default=32)
    args = parser.parse_args()
    for reference in args.model or ["random:ViT-B-32", "random:RN50"]:
        torch.manual_seed(0)
        clip = load(reference, device="cpu")
        plain = clip.clone()
        plain.model.to(memory_format=torch.contiguous_format)
        generator = torch.Generator().manual_seed(0)
        raw = start(1, clip.image_size, generator)[0]
        shape = (args.pictures, 3, clip.image_size, clip.image_size)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        for p in plain.model.parameters():
            p.requires_grad_(True)
        old = Run(partial(reference_loss, plain, pixels), raw)
        new = Run(partial(our_loss, streamlined(clip), pixels), raw)
        for _ in range(args.steps):
            old.step()
            new.step()
        gap = max(abs(a - b) for a, b in zip(old.losses, new.losses, strict=True))
        ratios = [a / b for a, b in zip(old.seconds[1:], new.seconds[1:], strict=True)]
        before, after = statistics.median(old.seconds[1:]), statistics.median(new.seconds[1:])
        print(
            f"{reference}: {args.pictures} pictures, reference {before:.2f} s, ours {after:.2f} s a step, "
            f"ratio {statistics.median(ratios):.2f} (median of {args.steps - 1} pairs of steps, {min(ratios):.2f} to "
            f"{max(ratios):.2f}); largest difference of losses {gap:.1e} in {args.steps} steps, "
            f"loss {new.losses[0]:.4f} to {new.losses[-1]:.4f}"
        )


if __name__ == "__main__":
    main()
