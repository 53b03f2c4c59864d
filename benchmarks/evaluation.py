"""CA and ASR of a full-size model: one pass of ours against two of the plain OpenCLIP loop, and the bare forward.

    python benchmarks/evaluation.py [--model ViT-B-32] [--images 128] [--rounds 5]

The plain loop decodes every JPEG with PIL and the library's own transform, once for the clean pass and once for the
triggered one (a patch, put on after the transform's resizing, before its normalisation). Ours decodes once and counts
both views together, in bfloat16 where the machine is faster in it, and in float32 where that could change an answer.
`bare` is the same model's forward of as many ready tensors, in float32; against it ours runs in float32 too. Random
weights, 375 × 500 pictures that are written for the purpose, two threads, alternating order in one process; the hits
have to be the same before anything is timed. Text that a random tower reads says nothing, so that a class's row is the
mean embedding of its pictures, less the mean of all: answers then are about as far apart as a trained model's.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip import image_transform
from PIL import Image

import unbackdoor
from race import options, race
from unbackdoor.base.devices import keep_freed_memory
from unbackdoor.data.specs import load_images
from unbackdoor.evaluation import Task, evaluate_images
from unbackdoor.evaluation.answers import batch_size, predict
from unbackdoor.evaluation.half import Answers
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.attack import Attack

CLASSES = tuple(f"class{i}" for i in range(10))


def pictures(folder: Path, count: int) -> None:
    noise = np.random.default_rng(0)
    kinds = noise.integers(0, 256, (len(CLASSES), 6, 8, 3))
    for i in range(count):
        own = kinds[i % len(CLASSES)] * 0.7 + noise.integers(0, 256, (6, 8, 3)) * 0.3
        small = Image.fromarray(own.astype(np.uint8))
        place = folder / CLASSES[i % len(CLASSES)]
        place.mkdir(exist_ok=True)
        small.resize((500, 375), Image.Resampling.BICUBIC).save(place / f"{i:04}.jpg", quality=90)


def main() -> None:
    args = options(__doc__, model="ViT-B-32", images=128, rounds=5)
    torch.set_num_threads(2)
    torch.manual_seed(0)
    keep_freed_memory()
    clip = unbackdoor.load(f"random:{args.model}", device="cpu")
    side, target = clip.image_size, 3
    attack = Attack(parse_trigger("badnets:size=16,position=bottom-right,pattern=white"), target, "3")
    steps: Any = image_transform(side, is_train=False, mean=clip.mean, std=clip.std)
    *resizing, normalise = steps.transforms

    def transform(path: Path, triggered: bool) -> torch.Tensor:
        picture: Any = Image.open(path)
        for step in resizing:
            picture = step(picture)
        if triggered:
            picture[:, -16:, -16:] = 1
        return normalise(picture)

    def plain(folder: Path, head: torch.Tensor) -> tuple[int, int]:
        files = sorted(folder.rglob("*.jpg"))
        labels = torch.tensor([CLASSES.index(file.parent.name) for file in files])
        counts = []
        for triggered in (False, True):
            encode: Any = clip.model.encode_image
            said = []
            with torch.no_grad():
                for at in range(0, len(files), 64):
                    batch = torch.stack([transform(file, triggered) for file in files[at : at + 64]])
                    features = torch.nn.functional.normalize(encode(batch), dim=-1)
                    said.append((100 * features @ head.T).argmax(dim=1))
            answers = torch.cat(said)
            counts.append(int((answers[labels != target] == target).sum() if triggered else (answers == labels).sum()))
        return counts[0], counts[1]

    def ours(folder: Path, head: torch.Tensor) -> tuple[int, int]:
        data = load_images(f"folder:{folder}", side=clip.frame, split=None)
        found = evaluate_images(clip, data, Task(head, attack))
        assert found.asr is not None
        return found.ca.hits, found.asr.hits

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures(folder, args.images)
        data = load_images(f"folder:{folder}", side=clip.frame, split=None)
        ready = torch.cat([data.float_batch(torch.arange(len(data)))] * 2)
        with torch.inference_mode():
            embeddings = torch.cat([clip.encode_image(batch) for batch in ready[: len(data)].split(16)])
        means = torch.stack([embeddings[data.labels == label].mean(dim=0) for label in range(len(CLASSES))])
        head = torch.nn.functional.normalize(means - embeddings.mean(dim=0), dim=-1)
        hits, theirs = ours(folder, head), plain(folder, head)
        print(f"{args.model}: hits of CA and ASR, ours {hits}, plain {theirs}")
        assert hits == theirs
        half = Answers.of(clip, head, 2 * len(data))
        evaluate_images(clip, data, Task(head, attack), answers=half)
        print(f"answers: {half.facts()}")

        def decoded() -> None:
            evaluate_images(clip, data, Task(head, attack), answers=Answers(clip, head, None))

        def bare() -> None:
            for batch in ready.split(2 * batch_size(side, clip.device)):
                predict(clip, batch, head)

        sides = {
            "ours, from files": lambda: ours(folder, head),
            "plain loop, from files": lambda: plain(folder, head),
            "ours, from decoded bytes, float32": decoded,
            "bare forward, float32": bare,
        }
        medians = race(sides, args.rounds)
    times = medians["plain loop, from files"] / medians["ours, from files"]
    rate = medians["bare forward, float32"] / medians["ours, from decoded bytes, float32"]
    print(
        f"the plain loop takes {times:.2f} times as long; in float32, from decoded bytes, ours has {rate:.1%} of bare"
    )
    print(f"{2 * args.images} views, {args.rounds} rounds")


if __name__ == "__main__":
    main()
