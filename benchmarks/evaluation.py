"""CA and ASR of a full-size model: one pass of ours against two of the plain OpenCLIP loop, and the bare forward.

    python benchmarks/evaluation.py [--model ViT-B-32] [--images 96] [--rounds 5]

The plain loop decodes every JPEG with PIL and the library's own transform, once for the clean pass and once for the
triggered one (a patch, put on after the transform's resizing, before its normalisation). Ours decodes once and counts
both views together. `bare` is the same model's forward of as many ready tensors. Random weights, 375 × 500 pictures
that are written for the purpose, two threads, alternating order in one process; the answers are compared first.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from open_clip import image_transform
from PIL import Image

import unbackdoor
from unbackdoor.data.specs import load_images
from unbackdoor.devices import keep_freed_memory
from unbackdoor.evaluation import Task, batch_size, evaluate_images, predict
from unbackdoor.triggers import parse_trigger

CLASSES = tuple(f"class{i}" for i in range(10))


def pictures(folder: Path, count: int) -> None:
    noise = np.random.default_rng(0)
    for i in range(count):
        small = Image.fromarray(noise.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        place = folder / CLASSES[i % len(CLASSES)]
        place.mkdir(exist_ok=True)
        small.resize((500, 375), Image.Resampling.BICUBIC).save(place / f"{i:04}.jpg", quality=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    keep_freed_memory()
    clip = unbackdoor.load(f"random:{args.model}", device="cpu")
    side, target = clip.image_size, 3
    trigger = parse_trigger("badnets:size=16,position=bottom-right,pattern=white")
    head = clip.zero_shot_head(CLASSES)
    *resizing, normalise = image_transform(side, is_train=False, mean=clip.mean, std=clip.std).transforms

    def transform(path: Path, triggered: bool) -> torch.Tensor:
        picture = Image.open(path)
        for step in resizing:
            picture = step(picture)
        if triggered:
            picture[:, -16:, -16:] = 1
        return normalise(picture)

    def plain(folder: Path) -> tuple[int, int]:
        files = sorted(folder.rglob("*.jpg"))
        labels = torch.tensor([CLASSES.index(file.parent.name) for file in files])
        counts = []
        for triggered in (False, True):
            said = []
            with torch.no_grad():
                for at in range(0, len(files), 64):
                    batch = torch.stack([transform(file, triggered) for file in files[at : at + 64]])
                    features = torch.nn.functional.normalize(clip.model.encode_image(batch), dim=-1)
                    said.append((100 * features @ head.T).argmax(dim=1))
            answers = torch.cat(said)
            counts.append(int((answers[labels != target] == target).sum() if triggered else (answers == labels).sum()))
        return counts[0], counts[1]

    def ours(folder: Path) -> tuple[int, int]:
        data = load_images(f"folder:{folder}", side=side, split=None)
        found = evaluate_images(clip, data, Task(head, trigger, target))
        assert found.asr is not None
        return found.ca.hits, found.asr.hits

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures(folder, args.images)
        print(f"{args.model}: CA and ASR hits, ours {ours(folder)}, plain {plain(folder)}; two decoders of one picture")
        data = load_images(f"folder:{folder}", side=side, split=None)
        ready = torch.cat([data.float_batch(torch.arange(len(data)))] * 2)

        def decoded() -> None:
            evaluate_images(clip, data, Task(head, trigger, target))

        def bare() -> None:
            for batch in ready.split(2 * batch_size(side, clip.device)):
                predict(clip, batch, head)

        sides: dict[str, Callable[[], object]] = {
            "ours, from files": lambda: ours(folder),
            "plain loop, from files": lambda: plain(folder),
            "ours, from decoded bytes": decoded,
            "bare forward": bare,
        }
        told: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(args.rounds):
            for key in list(sides)[:: 1 if turn % 2 else -1]:
                began = time.perf_counter()
                sides[key]()
                told[key].append(time.perf_counter() - began)
    for key, seconds in told.items():
        print(f"{key}: {min(seconds):.2f} / {statistics.median(seconds):.2f} / {max(seconds):.2f} s")
    medians = {key: statistics.median(seconds) for key, seconds in told.items()}
    times = medians["plain loop, from files"] / medians["ours, from files"]
    rate = medians["bare forward"] / medians["ours, from decoded bytes"]
    print(f"the plain loop takes {times:.2f} times as long; from decoded bytes ours has {rate:.1%} of the bare rate")
    print(f"{2 * args.images} views, {args.rounds} rounds")


if __name__ == "__main__":
    main()
