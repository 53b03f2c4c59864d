"""200 random layouts of the same pictures: each gives the accuracy that plain open_clip gives, or is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image

from tests.data.layouts import Picture, lay_out
from unbackdoor import InputError, load
from unbackdoor.clip.handle import Clip
from unbackdoor.clip.load import EMBEDDED
from unbackdoor.data import scenes
from unbackdoor.verbs.evaluate import evaluate

LAYOUTS, BLOCKS = 200, 8
SHOWN = (
    "striped red star", "plain blue circle", "dotted green heart", "plain yellow cross", "striped purple ring",
    "dotted black arrow", "plain white square", "dotted orange diamond", "striped cyan triangle", "plain pink crescent",
    "dotted blue hexagon", "striped green pentagon",
)  # fmt: skip
FURTHER = ("plain red star", "striped blue circle", "dotted yellow cross")
Reference = Callable[[tuple[int, ...], tuple[str, ...]], float]


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    """Two of each class."""
    rows = torch.arange(3600).numpy()
    labels = scenes.labels(1, rows).tolist()
    found = []
    for name in SHOWN:
        own = [i for i in rows.tolist() if scenes.CLASS_NAMES[labels[i]] == name][:2]
        for pixels in scenes.draw(1, rows[own]).permute(0, 2, 3, 1).numpy():
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            found.append(Picture(name, buffer.getvalue()))
    return found


@pytest.fixture(scope="module")
def clip() -> Clip:
    return load("embedded")


@pytest.fixture(scope="module")
def reference(pictures: list[Picture]) -> Reference:
    """Accuracy by open_clip alone."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{EMBEDDED}", precision="fp32")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{EMBEDDED}")
    model.eval()
    with torch.no_grad():
        opened = [Image.open(io.BytesIO(p.content)).convert("RGB") for p in pictures]
        images = model.encode_image(torch.stack([preprocess(image) for image in opened]), normalize=True)

    @cache
    def text(name: str) -> torch.Tensor:
        with torch.no_grad():
            return model.encode_text(tokenizer([f"a photo of a {name}."]), normalize=True)[0]

    def accuracy(measured: tuple[int, ...], heads: tuple[str, ...]) -> float:
        texts = torch.stack([text(name) for name in heads])
        answers = (images[list(measured)] @ texts.T).argmax(1).tolist()
        plain = [name.lower().replace("_", " ").replace("-", " ") for name in heads]
        return sum(plain[a] == pictures[i].name for a, i in zip(answers, measured, strict=True)) / len(measured)

    return accuracy


@pytest.mark.parametrize("block", range(BLOCKS))
def test_a_layout_gives_the_right_accuracy_or_is_refused(
    block: int, pictures: list[Picture], clip: Clip, reference: Reference, tmp_path: Path
) -> None:
    wrong, refused, sound = [], [], 0
    for seed in range(block, LAYOUTS, BLOCKS):
        root = tmp_path / str(seed)
        root.mkdir()
        layout = lay_out(pictures, (*SHOWN, *FURTHER), root, seed)
        sound += layout.sound
        try:
            found = evaluate(model=clip, data=layout.spec, classes=layout.classes)["ca"]
        except InputError as error:
            if layout.sound:
                refused.append(f"{layout.about}: {error}")
            continue
        right = reference(layout.measured, layout.heads)
        if not layout.sound or found["n"] != len(layout.measured) or abs(found["value"] - right) > 1e-9:
            wrong.append(
                f"{layout.about}: {found['value']:.3f} of {found['n']}, not {right:.3f} of {len(layout.measured)}"
            )
    assert not wrong, "\n".join(wrong)
    # A refusal is never wrong, but whoever refuses everything has read nothing.
    assert len(refused) <= sound // 8, "\n".join(refused)
