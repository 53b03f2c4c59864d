"""Triggers on batches at 224 px against the per-image form of the literature's released code.

    python benchmarks/triggers.py [--images 64] [--rounds 7]

The reference is written from a description of that code, not copied: every picture is a PIL image that is made a
tensor, triggered and made a PIL image again (SIG pixel by pixel in Python, into an array), and then a tensor for the
model. Ours goes from decoded bytes to the same tensor as evaluations do, a batch at a time in one piece of memory. One
process, alternating order, two threads; outputs are compared first, up to the rounding to bytes that the reference
does in between.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image, to_tensor

from race import options
from unbackdoor.base.devices import keep_freed_memory
from unbackdoor.data.images import ImageSet
from unbackdoor.evaluation.answers import batch_size
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.base import Trigger, fixed_noise
from unbackdoor.triggers.wanet import _grid

SIDE = 224
SPECS = {
    "SIG": "sig:amplitude=60,frequency=6",
    "WaNet": "wanet:k=0,s=1",
    "Blended": "blended:ratio=0.2",
    "patch": "badnets:size=16,position=bottom-right,pattern=white",
}


def sig(picture: Image.Image) -> Tensor:
    values = np.asarray(picture, dtype=np.float32)
    wave = np.zeros_like(values)
    for i in range(SIDE):
        for j in range(SIDE):
            wave[i, j] = 60 * math.sin(2 * math.pi * j * 6 / SIDE)
    return to_tensor(Image.fromarray(np.uint8(np.clip(np.rint(values + wave), 0, 255))))


def wanet(picture: Image.Image) -> Tensor:
    warped = F.grid_sample(to_tensor(picture)[None], _grid(0, 1.0, 1.0, 0, SIDE, SIDE), align_corners=True)[0]
    return to_tensor(to_pil_image(warped.clamp(0, 1)))


def blended(picture: Image.Image) -> Tensor:
    mixed = 0.8 * to_tensor(picture) + 0.2 * fixed_noise(0, SIDE, SIDE)
    return to_tensor(to_pil_image(mixed.clamp(0, 1)))


def patch(picture: Image.Image) -> Tensor:
    image = to_tensor(picture)
    image[:, -16:, -16:] = 1
    return to_tensor(to_pil_image(image))


REFERENCE: dict[str, Callable[[Image.Image], Tensor]] = {"SIG": sig, "WaNet": wanet, "Blended": blended, "patch": patch}


def main() -> None:
    args = options(__doc__, images=64, rounds=7)
    torch.set_num_threads(2)
    keep_freed_memory()  # as the command line does; it serves both sides
    noise = np.random.default_rng(0)
    small = noise.integers(0, 256, (args.images, 16, 16, 3), dtype=np.uint8)
    pictures = [Image.fromarray(one).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for one in small]
    stored = torch.stack([pil_to_tensor(one) for one in pictures])
    images = ImageSet(stored, torch.zeros(args.images, dtype=torch.int64))
    parts = torch.arange(args.images).split(batch_size(SIDE, torch.device("cpu")))
    room = torch.empty(len(parts[0]), 3, SIDE, SIDE)
    print("| trigger | ours, ms an image | reference, ms an image | times as fast |")
    print("| --- | --- | --- | --- |")
    for name, spec in SPECS.items():
        trigger = parse_trigger(spec)
        count = 4 if name == "SIG" else args.images  # the reference takes a tenth of a second an image

        def ours(trigger: Trigger = trigger) -> Iterator[Tensor]:
            return (trigger.in_place(images.float_batch(some, out=room[: len(some)]), keys=some) for some in parts)

        def theirs(name: str = name, count: int = count) -> Iterator[Tensor]:
            return (REFERENCE[name](one)[None] for one in pictures[:count])

        with torch.inference_mode():
            gap = float((torch.cat([one.clone() for one in ours()])[:count] - torch.cat(list(theirs()))).abs().max())
            assert gap < 1.01 / 255, (name, gap)
            mine, others = list[float](), list[float]()
            for turn in range(args.rounds):
                for side in ("ours", "theirs")[:: 1 if turn % 2 else -1]:
                    began = time.perf_counter()
                    for _ in ours() if side == "ours" else theirs():  # a model would take it from here
                        pass
                    seconds = time.perf_counter() - began
                    (mine if side == "ours" else others).append(
                        1000 * seconds / (args.images if side == "ours" else count)
                    )
        a, b = statistics.median(mine), statistics.median(others)
        print(f"| {name} | {a:.3f} ({min(mine):.3f} to {max(mine):.3f}) | {b:.2f} ({min(others):.2f} to "
              f"{max(others):.2f}) | {b / a:.1f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
