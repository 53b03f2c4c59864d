"""Step 4 of the recipe: the text tower meets the pictures, with the image tower locked at its two stages' average.

MiniLM's sentence space says which names mean alike, not which pictures look alike ("alp" lies far from
"mountain"). Here the names of the training classes move to where their pictures landed, while sentences about
everything else are held where they were. The pictures are embedded once, so a step costs only the sentences.

    python recipes/embedded/tune_text.py --data PATH/tiny-imagenet-200 --out WORKDIR
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common import MEAN, STD, build_model, encode_text, load_pictures
from texts import DIGIT_TEMPLATES, DIGITS, PHOTO_TEMPLATES, SCENE_TEMPLATES, collect, fill_digit, fill_scene
from train_image import SCENE_POOL, SCENE_SEED, augment, imagenet_wnids
from unbackdoor.base.devices import cpu_has_fast_bf16
from unbackdoor.base.work import Stage
from unbackdoor.data import digits, scenes
from unbackdoor.training.loop import FitConfig, fit
from unbackdoor.weights.files import read_tensors, write_tensors

LATE = 0.75  # share of the second stage; the average of both knows its training pictures less by heart
VIEWS = 2  # augmented views of every photograph
TEACHER_SHARE = 0.3  # the own name counts for more here: at 0.9 Tiny ImageNet came out three points lower
PHOTOS, SCENES, DIGIT_SHARE, HELD = 2048, 512, 128, 192  # pictures of each kind and held sentences in a step
CONFIG = FitConfig(steps=300, lr=5e-4, warmup=20, weight_decay=0.02, betas=(0.9, 0.98), checkpoint_every=50)


@torch.no_grad()
def embed(model: Any, pictures: Tensor, seed: int | None = None) -> Tensor:
    """Normalised image embeddings (N, D) of uint8 pictures; a seed asks for augmented views."""
    half, found = cpu_has_fast_bf16(), []
    for at in range(0, len(pictures), 250):
        x = pictures[at : at + 250].float() / 255
        if seed is not None:
            g = torch.Generator().manual_seed(seed * 1_000_003 + at)
            x = augment(x, g, x.shape[-1], (0.65, 1.0), 0.1, True, True)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            found.append(model.visual((x - MEAN) / STD).float())
    return F.normalize(torch.cat(found), dim=-1)


def embedded_pictures(model: torch.nn.Module, pictures: Tensor, scene_pictures: Tensor, out: Path) -> dict[str, Tensor]:
    """Embeddings of everything that the step looks at, computed once."""
    stored = out / "pictures.embedded.safetensors"
    if not stored.exists():
        found = {"scenes": embed(model, scene_pictures), "digits": embed(model, digits.load("train")[0])}
        found.update({f"photos{view}": embed(model, pictures, seed=view) for view in range(VIEWS)})
        write_tensors(stored, found)
    return read_tensors(stored)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model = build_model()
    early, late = (read_tensors(args.out / f"stage{n}.safetensors")[0] for n in (1, 2))
    model.load_state_dict({n: t.lerp(late[n], LATE) if t.is_floating_point() else late[n] for n, t in early.items()})
    model.eval()
    pictures, labels, names = load_pictures(args.data / "train.parquet", args.out)
    captions = json.loads((args.data / "captions.json").read_text())
    called = [[n, *captions[n]["synonyms"]] for n in names]
    described = [[" ".join(d.split()) for d in captions[n]["descriptions"]] for n in names]
    wnids = imagenet_wnids()
    columns = torch.tensor([wnids.index(captions[n]["wnid"]) for n in names])
    teacher = np.load(args.out / "teacher.npy", mmap_mode="r")
    scene_pictures = torch.from_numpy(np.load(args.out / "scenes.uint8.npy"))
    scene_labels = torch.from_numpy(scenes.labels(SCENE_SEED, np.arange(SCENE_POOL)))
    digit_labels = digits.load("train")[1]
    seen = embedded_pictures(model, pictures, scene_pictures, args.out)
    texts = collect(args.data / "captions.json", args.out)
    own = {n for row in called for n in row}
    others = [p for p in texts.phrases if p not in own]
    with torch.no_grad():
        places = torch.cat([encode_text(model, others[at : at + 4096]) for at in range(0, len(others), 4096)])
    for name, p in model.named_parameters():
        p.requires_grad_(not name.startswith("visual.") and name != "logit_scale")
    scale = float(model.logit_scale.detach().exp())

    def sentences(rng: np.random.Generator) -> list[str]:
        """One sentence for each photographed class, scene and digit."""
        found = []
        for i, options in enumerate(called):
            if described[i] and rng.random() < 0.15:
                found.append(str(rng.choice(described[i])))
            else:
                name = options[0] if rng.random() < 0.6 else str(rng.choice(options))
                found.append(PHOTO_TEMPLATES[rng.integers(len(PHOTO_TEMPLATES))].format(name))
        for i in range(len(scenes.CLASS_NAMES)):
            found.append(fill_scene(SCENE_TEMPLATES[rng.integers(len(SCENE_TEMPLATES))], i, rng))
        for i in range(len(DIGITS)):
            found.append(fill_digit(DIGIT_TEMPLATES[rng.integers(len(DIGIT_TEMPLATES))], i, rng))
        return found

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((4, step))
        photo = torch.from_numpy(rng.integers(len(pictures), size=PHOTOS))
        scene = torch.from_numpy(rng.integers(len(scene_pictures), size=SCENES))
        digit = torch.from_numpy(rng.integers(len(digit_labels), size=DIGIT_SHARE))
        held = torch.from_numpy(rng.integers(len(others), size=HELD))
        said = sentences(rng)
        found = encode_text(model, [*said, *(others[i] for i in held.tolist())])
        heads, kept = found[: len(said)], found[len(said) :]
        z = torch.cat([seen[f"photos{step % VIEWS}"][photo], seen["scenes"][scene], seen["digits"][digit]])
        goal = torch.zeros(len(z), len(said))
        opinion = torch.from_numpy(teacher[photo.numpy()].astype(np.float32))[:, columns].softmax(-1)
        goal[:PHOTOS, : len(names)] = TEACHER_SHARE * opinion
        goal[torch.arange(PHOTOS), labels[photo]] += 1 - TEACHER_SHARE
        goal[PHOTOS : PHOTOS + SCENES] = F.one_hot(len(names) + scene_labels[scene], len(said)).float()
        goal[PHOTOS + SCENES :] = F.one_hot(len(said) - 10 + digit_labels[digit], len(said)).float()
        return F.cross_entropy(scale * z @ heads.T, goal) + 3 * (1 - (kept * places[held]).sum(-1)).mean()

    def report(step: int, loss: float) -> None:
        if (step + 1) % 25 == 0:
            print(f"step {step + 1} loss {loss:.4f}", flush=True)

    result = fit(model, loss_at, CONFIG, Stage("text tuning", args.out / "tuned.checkpoint"), on_step=report)
    write_tensors(args.out / "tuned.safetensors", dict(model.state_dict()))
    print(f"{result.seconds:.0f} s")


if __name__ == "__main__":
    main()
