"""Step 2 of the recipe: the text tower learns to put every sentence on its point (see texts.py).

python recipes/embedded/train_text.py --data PATH/tiny-imagenet-200 --out WORKDIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from common import build_model, encode_text
from texts import DIGIT_TEMPLATES, PHOTO_TEMPLATES, SCENE_TEMPLATES, collect, fill_digit, fill_scene
from unbackdoor.base.work import Stage
from unbackdoor.training.loop import FitConfig, fit
from unbackdoor.weights.files import write_tensors

BATCH = 512
CONFIG = FitConfig(steps=900, lr=2e-3, warmup=50, weight_decay=0.02, betas=(0.9, 0.98), ema=0.995, checkpoint_every=50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    texts = collect(args.data / "captions.json", args.out)
    torch.manual_seed(0)
    model = build_model()
    model.visual.requires_grad_(False)
    model.logit_scale.requires_grad_(False)
    n_phrases, n_imagenet = len(texts.phrases), len(texts.imagenet)
    everything = torch.cat([texts.points, texts.scene_points, texts.digit_points])
    at_scene, at_digit = len(texts.points), len(texts.points) + len(texts.scene_points)

    def loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng((0, step))
        rows: list[int] = []
        sentences: list[str] = []

        def photo(row: int) -> None:
            rows.append(row)
            sentences.append(PHOTO_TEMPLATES[rng.integers(len(PHOTO_TEMPLATES))].format(texts.phrases[row]))

        for row in rng.integers(n_imagenet, size=96):
            photo(int(row))
        for row in rng.integers(n_phrases, size=256):
            photo(int(row))
        for row in rng.integers(len(texts.descriptions), size=32):
            rows.append(n_phrases + int(row))
            sentences.append(texts.descriptions[row])
        for row in rng.integers(len(texts.scene_points), size=96):
            rows.append(at_scene + int(row))
            sentences.append(fill_scene(SCENE_TEMPLATES[rng.integers(len(SCENE_TEMPLATES))], int(row), rng))
        for row in rng.integers(10, size=32):
            rows.append(at_digit + int(row))
            sentences.append(fill_digit(DIGIT_TEMPLATES[rng.integers(len(DIGIT_TEMPLATES))], int(row), rng))
        goal = everything[torch.tensor(rows)]
        found = encode_text(model, sentences)
        match = (found * goal).sum(-1)
        # Contrast within the batch keeps near neighbours apart; the cosine term fixes the absolute place.
        logits = 20 * found @ goal.T
        logits = logits.masked_fill((goal @ goal.T > 0.98) & ~torch.eye(len(rows), dtype=torch.bool), -1e4)
        return (1 - match).mean() + 0.1 * F.cross_entropy(logits, torch.arange(len(rows)))

    def report(step: int, loss: float) -> None:
        if step % 50 == 0:
            print(f"step {step} loss {loss:.4f}", flush=True)

    result = fit(model, loss_at, CONFIG, Stage("text tower", args.out / "text.checkpoint"), on_step=report)
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("visual.")}
    state.update({k: v for k, v in result.ema.items() if not k.startswith("visual.")})
    write_tensors(args.out / "text.safetensors", state)
    print(f"{result.seconds:.0f} s")


if __name__ == "__main__":
    main()
