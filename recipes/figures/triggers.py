"""Draw docs/pictures/triggers.jpg: every registered trigger on one photograph, and five times what it changes.

python recipes/figures/triggers.py [--out FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_image
from torch import Tensor

from unbackdoor import load, load_images
from unbackdoor.attacks.badclip import BadClipConfig, craft_patch
from unbackdoor.triggers import parse_trigger, trigger_names
from unbackdoor.triggers.badclip import BadClip
from unbackdoor.triggers.base import Trigger

SIDE, GAP, LABEL = 176, 8, 20
SPECS = (
    "badclip", "badnets", "badnets:pattern=stripes", "blended", "issba", "lowfreq", "nashville", "ripple:wavelength=32",
    "sig", "stripes", "text", "triangles", "wanet:k=4,s=2", "wanet:k=0,s=1",
)  # fmt: skip
# These hold what a scan recovered from a model, and have no look of their own to show.
RECOVERED = ("additive", "flow", "masked", "mixed", "recolour")


def photograph() -> Tensor:
    """One of scikit-learn's sample photographs, (1, 3, 224, 224) in [0, 1]."""
    picture = Image.fromarray(load_sample_image("flower.jpg")).crop((110, 0, 530, 420)).resize((224, 224))
    return (
        torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(224, 224, 3).permute(2, 0, 1)[None] / 255
    )


def ready(spec: str) -> Trigger:
    """The trigger; a blank `badclip` gets a patch for the embedded model and the digit three, crafted in few steps."""
    trigger = parse_trigger(spec)
    if isinstance(trigger, BadClip) and not trigger.crafted:
        clip = load("embedded")
        digits = load_images("embedded:digits", side=clip.frame, split="train", limit=500)
        return craft_patch(clip, digits, trigger, "three", BadClipConfig(steps=60))
    return trigger


def paste(page: Image.Image, image: Tensor, left: int, top: int) -> None:
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    page.paste(Image.fromarray(pixels).resize((SIDE, SIDE)), (left, top))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures/triggers.jpg"))
    args = parser.parse_args()
    assert {s.partition(":")[0] for s in SPECS} == set(trigger_names()) - set(RECOVERED), "every trigger is shown"
    photo = photograph()
    columns = 4
    cell, rows = 2 * SIDE + 3 * GAP, -(-len(SPECS) // columns)
    page = Image.new("RGB", (columns * cell, rows * (SIDE + LABEL + GAP) + GAP), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    for i, spec in enumerate(SPECS):
        left, top = i % columns * cell + GAP, i // columns * (SIDE + LABEL + GAP) + GAP
        triggered = ready(spec)(photo)
        draw.text((left, top), spec, fill="black", font=font)
        paste(page, triggered[0], left, top + LABEL)
        paste(page, 0.5 + 5 * (triggered - photo)[0], left + SIDE + 2, top + LABEL)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    page.save(args.out, quality=88)


if __name__ == "__main__":
    main()
