"""What the recipes of foreign bases share: pictures, captions, and a linear projection that joins two frozen towers.

The projection is all that is learnt: 200 classes of Tiny ImageNet, each a sentence drawn anew at every step, against
the frozen features of a pre-trained image tower, by cross-entropy of scaled cosines. Nothing here knows of a backdoor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unbackdoor.base.devices import half_type
from unbackdoor.base.progress import Progress
from unbackdoor.clip.preprocess import Frame
from unbackdoor.data.images import ImageSet
from unbackdoor.data.specs import load_images

TEMPLATES = (
    "{}",
    "a {}",
    "a photo of a {}.",
    "a photo of the {}.",
    "a close-up photo of a {}.",
    "a good photo of a {}.",
)
SENTENCES = 24  # of each class
PICTURES = 20_000  # of Tiny ImageNet, drawn by seed 0


def pictures(root: Path, frame: Frame, limit: int = PICTURES) -> ImageSet:
    """Training pictures of Tiny ImageNet, as a model's own preprocessing frames them."""
    return load_images(f"parquet:{root}/tiny-imagenet-200", side=frame, split="train", limit=limit)


def sentences(root: Path, classes: tuple[str, ...]) -> list[list[str]]:
    """For each class `SENTENCES` sentences: its synonyms in templates, and what `captions.json` writes of it."""
    told = json.loads((root / "tiny-imagenet-200" / "captions.json").read_text(encoding="utf-8"))
    rng = np.random.default_rng(0)
    rows = []
    for name in classes:
        entry = told[name]
        names = [name, *entry["synonyms"]]
        plain = [str(rng.choice(TEMPLATES)).format(rng.choice(names)) for _ in range(SENTENCES)]
        written = [" ".join(d.split()) for d in entry["descriptions"]]
        plain[::3] = [str(rng.choice(written)) if written else s for s in plain[::3]]
        rows.append(plain)
    return rows


@torch.no_grad()
def features(images: ImageSet, tower: Callable[[Tensor], Tensor], label: str, batch: int = 64) -> Tensor:
    """What a frozen tower gives for every picture, float32 (N, D)."""
    found = []
    parts = torch.arange(len(images)).split(batch)
    half = half_type(torch.device("cpu"))
    with Progress(label, len(parts)) as bar:
        for number, rows in enumerate(parts):
            with torch.autocast("cpu", half or torch.float32, enabled=half is not None):
                found.append(tower(images.float_batch(rows)).float())
            bar.step(number + 1)
    return torch.cat(found)


@dataclass(frozen=True)
class Joined:
    """A projection (D_image, D), the logit scale, and how often the right one of the classes is answered."""

    weight: Tensor
    log_scale: float
    accuracy: float


def join(images: Tensor, labels: Tensor, bank: Tensor, steps: int = 1500, seed: int = 0) -> Joined:
    """Fit the projection of image features (N, D_image) onto a bank of texts (classes, sentences, D) of unit rows."""
    generator = torch.Generator().manual_seed(seed)
    scale_in = images.pow(2).sum(1).mean().sqrt()  # so that one rate serves features of any size
    weight = torch.randn(images.shape[1], bank.shape[-1], generator=generator) / math.sqrt(images.shape[1])
    weight.requires_grad_(True)
    log_scale = torch.tensor(math.log(20.0), requires_grad=True)
    held = torch.zeros(len(images), dtype=torch.bool)
    held[torch.randperm(len(images), generator=generator)[: len(images) // 10]] = True
    rows = (~held).nonzero()[:, 0]
    optimizer = torch.optim.AdamW([weight, log_scale], lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        batch = rows[torch.randint(len(rows), (512,), generator=generator)]
        drawn = torch.randint(bank.shape[1], (len(bank),), generator=generator)
        texts = bank[torch.arange(len(bank)), drawn]
        x = images[batch] / scale_in
        # The texts' own plane carries to classes that were never looked at; noise keeps the fit from leaning on few.
        x = x + 0.02 * torch.randn(x.shape, generator=generator) / math.sqrt(x.shape[1])
        cosines = F.normalize(x @ weight, dim=-1) @ texts.T
        loss = F.cross_entropy(log_scale.exp().clamp(max=100) * cosines, labels[batch], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        head = F.normalize(bank.mean(1), dim=-1)
        answers = (images[held] @ weight @ head.T).argmax(1)
        right = float((answers == labels[held]).float().mean())
        return Joined(weight.detach() / scale_in, min(float(log_scale), math.log(100.0)), right)
