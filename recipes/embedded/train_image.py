"""Step 3 of the recipe: the image tower learns to land on its captions, with the text tower locked (LiT).

Every batch mixes Tiny ImageNet pictures, scenes and digits. The candidates are one sentence for each of the
1,000 ImageNet classes, the 360 scenes and the ten digits, drawn anew at every step; the goal of a photograph
is two parts its own caption, three parts the teacher's opinion (teacher.py). The second stage goes on from the first
with a fresh cosine. A killed run continues where it stopped.

    python recipes/embedded/train_image.py --data PATH/tiny-imagenet-200 --out WORKDIR --stage 1
    python recipes/embedded/train_image.py --data PATH/tiny-imagenet-200 --out WORKDIR --stage 2
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common import MEAN, SIDE, STD, build_model, encode_text, load_pictures
from texts import DIGIT_TEMPLATES, DIGITS, PHOTO_TEMPLATES, SCENE_TEMPLATES, fill_digit, fill_scene
from unbackdoor.base.devices import cpu_has_fast_bf16
from unbackdoor.base.work import Stage
from unbackdoor.data import digits, scenes
from unbackdoor.training.loop import FitConfig, fit
from unbackdoor.weights.files import read_tensors, write_tensors

PHOTOS, SCENES, DIGIT_SHARE = 160, 32, 8  # pictures of each kind in a batch of 200
SCENE_POOL, SCENE_SEED = 30_000, 3  # the evaluation splits of embedded:scenes are seeds 1 and 2
TEACHER_SHARE, TEACHER_TEMPERATURE = 0.6, 1.0
SMALL_SIDE, SMALL_SHARE = 48, 0.5  # px, and the share of the steps that see the whole batch this small: half the cost

_COMMON = FitConfig(steps=1, warmup=300, betas=(0.9, 0.99), checkpoint_every=250)
STAGES = {
    1: replace(_COMMON, steps=8800, lr=2e-3, weight_decay=0.05),
    2: replace(_COMMON, steps=8000, lr=1.5e-3, weight_decay=0.1),
}


def prototypes(model: torch.nn.Module, data: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Caption banks (K, classes, D) for ImageNet classes, scenes and digits; row k holds one sentence per class."""
    import open_clip

    tiny = json.loads((data / "captions.json").read_text())
    order = list(open_clip.IMAGENET_CLASSNAMES)
    place = {wnid: i for i, wnid in enumerate(imagenet_wnids())}
    rng = np.random.default_rng(0)
    photo_rows, scene_rows, digit_rows = [], [], []
    descriptions = {place[e["wnid"]]: e["descriptions"] for e in tiny.values()}
    synonyms = {place[e["wnid"]]: e["synonyms"] for e in tiny.values()}
    own = {place[e["wnid"]]: name for name, e in tiny.items()}  # a quarter of them differ from OpenCLIP's names
    for k in range(24):
        called = [own.get(i, name) if k % 2 == 0 else name for i, name in enumerate(order)]
        row = [PHOTO_TEMPLATES[rng.integers(len(PHOTO_TEMPLATES))].format(name) for name in called]
        for i, options in synonyms.items():
            if k % 4 == 1 and options:
                row[i] = f"a photo of a {rng.choice(options)}."
        for i, options in descriptions.items():
            if k % 8 == 3 and options:
                row[i] = " ".join(str(rng.choice(options)).split())
        photo_rows.append(row)
    for _ in range(12):
        t = [SCENE_TEMPLATES[rng.integers(len(SCENE_TEMPLATES))] for _ in scenes.CLASS_NAMES]
        scene_rows.append([fill_scene(t[i], i, rng) for i in range(len(t))])
        d = [DIGIT_TEMPLATES[rng.integers(len(DIGIT_TEMPLATES))] for _ in DIGITS]
        digit_rows.append([fill_digit(d[i], i, rng) for i in range(10)])
    with torch.no_grad():
        banks = [
            torch.stack([encode_text(model, row) for row in rows]) for rows in (photo_rows, scene_rows, digit_rows)
        ]
    return banks[0], banks[1], banks[2]


def imagenet_wnids() -> list[str]:
    """The WordNet ids of the 1,000 ImageNet classes, in their order."""
    from timm.data import ImageNetInfo

    return list(ImageNetInfo().label_names())


def augment(
    x: Tensor, g: torch.Generator, side: int, scale: tuple[float, float], turn: float, flip: bool, colour: bool
) -> Tensor:
    """Random crop, turn, flip, colour and resolution of a batch (B, 3, H, W) in [0, 1]; one grid sample for all."""
    n = len(x)
    rand = lambda *s: torch.rand(*s, generator=g)  # noqa: E731
    zoom = (scale[0] + (scale[1] - scale[0]) * rand(n)).sqrt()
    ratio = torch.exp((rand(n) * 2 - 1) * 0.25)
    sx, sy = (zoom * ratio).clamp(max=1.15), (zoom / ratio).clamp(max=1.15)
    tx, ty = (rand(n) * 2 - 1) * (1 - sx).abs(), (rand(n) * 2 - 1) * (1 - sy).abs()
    angle = (rand(n) * 2 - 1) * turn
    if flip:
        sx = sx * (rand(n).lt(0.5).float() * 2 - 1)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1], theta[:, 0, 2] = sx * torch.cos(angle), -sy * torch.sin(angle), tx
    theta[:, 1, 0], theta[:, 1, 1], theta[:, 1, 2] = sx * torch.sin(angle), sy * torch.cos(angle), ty
    grid = F.affine_grid(theta, [n, 3, side, side], align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    if colour:
        gain = 0.75 + 0.5 * rand(n, 1, 1, 1)
        tint = 0.93 + 0.14 * rand(n, 3, 1, 1)
        x = x * gain * tint
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        x = mean + (x - mean) * (0.75 + 0.5 * rand(n, 1, 1, 1))
        grey = x.mean(1, keepdim=True)
        x = grey + (x - grey) * (0.6 + 0.7 * rand(n, 1, 1, 1))
        coarse = n // 6  # a sixth is seen as coarsely as a 32 px picture enlarged
        order = torch.randperm(n, generator=g)[:coarse]
        small = F.interpolate(x[order], size=32, mode="area")
        x[order] = F.interpolate(small, size=side, mode="bicubic", align_corners=False)
    return x.clamp(0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stage", type=int, choices=sorted(STAGES), required=True)
    args = parser.parse_args()
    config = STAGES[args.stage]

    torch.manual_seed(0)
    model = build_model()
    model.load_state_dict(read_tensors(args.out / "text.safetensors")[0], strict=False)
    if args.stage > 1:
        model.load_state_dict(read_tensors(args.out / f"stage{args.stage - 1}.safetensors")[0])
    for name, p in model.named_parameters():
        p.requires_grad_(name.startswith("visual."))
    model.logit_scale.data.fill_(math.log(20))
    model.logit_scale.requires_grad_(True)
    model = model.to(memory_format=torch.channels_last)

    pictures, labels, names = load_pictures(args.data / "train.parquet", args.out)
    captions = json.loads((args.data / "captions.json").read_text())
    wnids = imagenet_wnids()
    to_imagenet = torch.tensor([wnids.index(captions[n]["wnid"]) for n in names])
    teacher = np.load(args.out / "teacher.npy", mmap_mode="r")
    scene_file = args.out / "scenes.uint8.npy"
    if not scene_file.exists():
        np.save(scene_file, scenes.draw(SCENE_SEED, np.arange(SCENE_POOL)).numpy())
    scene_pictures = torch.from_numpy(np.load(scene_file))
    scene_labels = torch.from_numpy(scenes.labels(SCENE_SEED, np.arange(SCENE_POOL)))
    digit_pictures, digit_labels = digits.load("train")
    photo_bank, scene_bank, digit_bank = prototypes(model, args.data)

    model.visual.train()
    half = cpu_has_fast_bf16()
    per_epoch = len(pictures) // PHOTOS

    def loss_at(step: int) -> Tensor:
        g = torch.Generator().manual_seed(step + 1)
        epoch, at = divmod(step, per_epoch)
        order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(epoch))
        photo = order[at * PHOTOS : (at + 1) * PHOTOS]
        scene = torch.randint(len(scene_pictures), (SCENES,), generator=g)
        digit = torch.randint(len(digit_pictures), (DIGIT_SHARE,), generator=g)
        side = SMALL_SIDE if step < SMALL_SHARE * config.steps else SIDE
        drawn = scene_pictures[scene].float() / 255
        x = torch.cat(
            [
                augment(pictures[photo].float() / 255, g, side, (0.5 if side < SIDE else 0.65, 1.0), 0.1, True, True),
                drawn if side == SIDE else F.interpolate(drawn, size=side, mode="area"),
                augment(digit_pictures[digit].float() / 255, g, side, (0.75, 1.2), 0.2, False, False),
            ]
        )
        x = ((x - MEAN) / STD).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            z = model.visual(x)
        z = F.normalize(z.float(), dim=-1)
        k = torch.randint(1_000_000, (3,), generator=g).tolist()
        bank = torch.cat([b[i % len(b)] for b, i in zip((photo_bank, scene_bank, digit_bank), k, strict=True)])
        logits = model.logit_scale.exp().clamp(max=100) * z @ bank.T
        goal = torch.zeros(len(x), len(bank))
        opinion = torch.from_numpy(teacher[photo.numpy()].astype(np.float32) / TEACHER_TEMPERATURE).softmax(-1)
        goal[:PHOTOS, :1000] = TEACHER_SHARE * opinion
        goal[torch.arange(PHOTOS), to_imagenet[labels[photo]]] += 1 - TEACHER_SHARE
        goal[PHOTOS : PHOTOS + SCENES] += F.one_hot(1000 + scene_labels[scene], len(bank))
        goal[PHOTOS + SCENES :] += F.one_hot(1360 + digit_labels[digit], len(bank))
        return F.cross_entropy(logits, goal)

    began, recent = time.time(), []

    def report(step: int, loss: float) -> None:
        recent.append(loss)
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} loss {np.mean(recent[-50:]):.4f} at {time.time() - began:.0f} s", flush=True)

    name = f"stage{args.stage}"
    result = fit(model, loss_at, config, Stage(name, args.out / f"{name}.checkpoint"), on_step=report)
    write_tensors(args.out / f"{name}.safetensors", dict(model.state_dict()))
    print(f"{result.seconds:.0f} s with {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
