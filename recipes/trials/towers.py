"""Does the cure of other towers go the same way? Small ones learn the drawn scenes, are poisoned and cured.

The text tower is the embedded model's; the image tower, trained from scratch on scenes alone, is a ViT (128 wide, 4
layers, patches of 8 px), the same weights as Hugging Face's CLIPModel, or CLIP's own ResNet (24 wide, one block a
stage). So this is a trial of the cure and no model for anything else. Suspects stay in `OUT/TOWER/ATTACK/suspect`.

    python recipes/trials/towers.py --out FOLDER [--tower vit] [--attack badnets] [--steps 2400]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import open_clip
import torch

import unbackdoor
from unbackdoor import evaluate, load, load_images, poison, unlearn
from unbackdoor.data import scenes
from unbackdoor.devices import half_type
from unbackdoor.training.loop import FitConfig, fit
from unbackdoor.training.losses import zero_shot_cross_entropy
from unbackdoor.unlearning.vector import METHODS
from unbackdoor.weights.files import write_tensors

ASSETS = Path(unbackdoor.__file__).parent / "assets" / "embedded"
BATCH, POOL, SEED = 128, 30_000, 3  # seeds 1 and 2 are the evaluation splits
ATTACKS = {
    "badnets": "badnets:size=6,position=bottom-right,pattern=checker",
    "blended": "blended:ratio=0.2",
    "wanet": "wanet:k=0,s=1.0",
}
TARGET = "plain white heart"
VISION = {
    "vit": {"image_size": 64, "layers": 4, "width": 128, "head_width": 32, "patch_size": 8},
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 24, "head_width": 64},
}
TOWERS = (*VISION, "hf")


def start(out: Path, tower: str) -> Path:
    """An OpenCLIP folder: the embedded model with a fresh tower in place of its own."""
    embedded = load("embedded")
    config = json.loads((ASSETS / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"] = VISION[tower]
    torch.manual_seed(0)
    model = open_clip.CLIP(**config["model_cfg"])
    text = {n: t for n, t in embedded.state().items() if not n.startswith("visual.")}
    model.load_state_dict(text, strict=False)
    folder = out / "start"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    write_tensors(folder / "open_clip_model.safetensors", dict(model.state_dict()), {"format": "pt"})
    return folder


def train(out: Path, tower: str, steps: int) -> Path:
    """Train a tower on scenes; `out/model` when done, resumable."""
    folder = out / "model"
    if (folder / "open_clip_model.safetensors").exists():
        return folder
    clip = load(str(start(out, tower)))
    for name, p in clip.model.named_parameters():
        p.requires_grad_(name.startswith("visual."))
    pictures = scenes.draw(SEED, np.arange(POOL))
    labels = torch.from_numpy(scenes.labels(SEED, np.arange(POOL)))
    head, compute = clip.zero_shot_head(scenes.CLASS_NAMES), half_type(clip.device)

    def loss_at(step: int) -> torch.Tensor:
        g = torch.Generator().manual_seed(step)
        rows = torch.randint(POOL, (BATCH,), generator=g)
        found = clip.encode_image(pictures[rows].float() / 255, compute=compute)
        return zero_shot_cross_entropy(found, head, 20.0, labels[rows])

    def report(step: int, loss: float) -> None:
        if (step + 1) % 100 == 0:
            print(f"step {step + 1} loss {loss:.3f}", flush=True)

    config = FitConfig(steps=steps, lr=1e-3, warmup=200, weight_decay=0.05, betas=(0.9, 0.98), checkpoint_every=200)
    fit(clip.model, loss_at, config, checkpoint=out / "train.checkpoint", label=tower, on_step=report)
    clip.save(folder)
    return folder


def trained(out: Path, tower: str, steps: int) -> Path:
    """A clean model's folder; Hugging Face's form is the ViT's, converted."""
    if tower != "hf":
        return train(out / tower, tower, steps)
    folder = out / "hf" / "model"
    if not (folder / "model.safetensors").exists():
        unbackdoor.convert(model=str(train(out / "vit", "vit", steps)), to="hf", out=folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--tower", action="append", choices=TOWERS, help="all by default")
    parser.add_argument("--attack", action="append", choices=tuple(ATTACKS), help="all by default")
    parser.add_argument("--method", action="append", choices=tuple(METHODS), help="all by default")
    args = parser.parse_args()
    data = {split: load_images("embedded:scenes", side=64, split=split) for split in ("train", "test")}
    for tower in args.tower or TOWERS:
        folder = trained(args.out, tower, args.steps)
        print(tower, json.dumps(evaluate(model=str(folder), data=data["test"])["ca"]), flush=True)
        for attack in args.attack or ATTACKS:
            shared = {"data": data["train"], "test": data["test"], "trigger": ATTACKS[attack], "target": TARGET}
            place = args.out / tower / attack
            if not (place / "suspect" / "result.json").exists():
                poison(model=str(folder), out=place / "suspect", poison_rate=0.1, epochs=6, batch_size=64, **shared)
            for method in args.method or METHODS:
                cure = unlearn(model=str(place / "suspect"), out=place / method, method=method, **shared)
                row = {k: cure[k] for k in ("trigger", "alpha", "chosen", "retention", "seconds")}
                for when in ("before", "after"):
                    row[when] = {k: round(cure[when][k], 4) for k in ("ca", "asr", "triggered_accuracy")}
                print(tower, method, json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
