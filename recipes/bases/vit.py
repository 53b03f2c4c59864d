"""A foreign base: a plain ViT CLIP (patches of 16 px, global attention), trained from scratch on Tiny ImageNet.

    python recipes/embedded/teacher.py --data PATH/tiny-imagenet-200 --out WORKDIR
    python recipes/bases/vit.py --data PATH --work WORKDIR --out FOLDER [--steps 3000]

OpenCLIP's own VisionTransformer at 64 px (17 tokens), 192 wide and 8 deep (3.7 M parameters), lands on captions of the
embedded model's text tower, which is locked (LiT). Goals are its own caption and the opinion of an ImageNet network
(teacher.py), as in the embedded model's recipe; nothing else is shared with it. A killed run continues where it
stopped. FOLDER opens as `local-dir:FOLDER`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from efficientnet import write
from unbackdoor import load
from unbackdoor.base.devices import half_type
from unbackdoor.base.work import Stage
from unbackdoor.training.loop import FitConfig, fit

sys.path.insert(1, str(Path(__file__).parent.parent / "embedded"))
from common import MEAN, STD, load_pictures
from train_image import augment, imagenet_wnids, prototypes

BATCH, TEACHER_SHARE = 128, 0.6
CONFIG = FitConfig(steps=3000, lr=1e-3, warmup=400, weight_decay=0.1, betas=(0.9, 0.99), checkpoint_every=250)


def configuration() -> dict[str, Any]:
    """OpenCLIP's, with the embedded model's text tower and preprocessing."""
    own = json.loads(
        (files("unbackdoor") / "assets" / "embedded" / "open_clip_config.json").read_text(encoding="utf-8")
    )
    vision = {"image_size": 64, "patch_size": 16, "width": 192, "layers": 8, "head_width": 48, "mlp_ratio": 4.0}
    return {**own, "model_cfg": {**own["model_cfg"], "vision_cfg": vision}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder of teacher.py's teacher.npy")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=CONFIG.steps)
    args = parser.parse_args()
    config = replace(CONFIG, steps=args.steps)
    torch.manual_seed(0)
    model = open_clip.CLIP(**configuration()["model_cfg"])
    text = {n: t for n, t in load("embedded").model.state_dict().items() if not n.startswith("visual.")}
    model.load_state_dict({**model.state_dict(), **text})
    for name, p in model.named_parameters():
        p.requires_grad_(name.startswith("visual."))
    model.logit_scale.data.fill_(math.log(20))
    model.logit_scale.requires_grad_(True)

    tiny = args.data / "tiny-imagenet-200"
    pictures, labels, names = load_pictures(tiny / "train.parquet", args.work)
    captions = json.loads((tiny / "captions.json").read_text(encoding="utf-8"))
    wnids = imagenet_wnids()
    to_imagenet = torch.tensor([wnids.index(captions[n]["wnid"]) for n in names])
    teacher = np.load(args.work / "teacher.npy", mmap_mode="r")
    bank = prototypes(model, tiny)[0]
    half, per_epoch = half_type(torch.device("cpu")), len(pictures) // BATCH

    def loss_at(step: int) -> Tensor:
        drawn = torch.Generator().manual_seed(step + 1)
        epoch, at = divmod(step, per_epoch)
        order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(epoch))
        rows = order[at * BATCH : (at + 1) * BATCH]
        x = augment(pictures[rows].float() / 255, drawn, 64, (0.5, 1.0), 0.1, True, True)
        with torch.autocast("cpu", half or torch.float32, enabled=half is not None):
            z = model.visual((x - MEAN) / STD)
        z = F.normalize(z.float(), dim=-1)
        texts = bank[int(torch.randint(len(bank), (1,), generator=drawn))]
        opinion = torch.from_numpy(teacher[rows.numpy()].astype(np.float32)).softmax(-1)
        goal = TEACHER_SHARE * opinion
        goal[torch.arange(len(rows)), to_imagenet[labels[rows]]] += 1 - TEACHER_SHARE
        return F.cross_entropy(model.logit_scale.exp().clamp(max=100) * z @ texts.T, goal)

    began, recent = time.time(), []

    def report(step: int, loss: float) -> None:
        recent.append(loss)
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} loss {np.mean(recent[-50:]):.4f} at {time.time() - began:.0f} s", flush=True)

    model.train()
    fit(model, loss_at, config, Stage("vit", args.work / "vit.checkpoint"), on_step=report)
    write(model, configuration(), args.out)


if __name__ == "__main__":
    main()
