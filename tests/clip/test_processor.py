"""A Hugging Face folder's pictures are those of its own image processor, over a table of settings and pictures."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unbackdoor.base.errors import InputError
from unbackdoor.clip.huggingface import _puts_on_white
from unbackdoor.clip.preprocess import Preprocess
from unbackdoor.clip.processor import Tower, preprocess, read_settings
from unbackdoor.data.decode import decode

Json = dict[str, Any]
MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
SQUARE, CROP = {"height": 32, "width": 32}, {"do_center_crop": True, "crop_size": {"height": 32, "width": 32}}
SHORT = {"size": {"shortest_edge": 32}, **CROP}

# Name of the class, settings; each gives 32 × 32.
TABLE: dict[str, tuple[str, Json]] = {
    "plain": ("CLIP", SHORT),
    "as old files say it": ("CLIP", {"size": 32, "crop_size": 32, "do_center_crop": True}),
    "margin": ("CLIP", {**SHORT, "size": {"shortest_edge": 40}}),
    "odd margin": ("CLIP", {**SHORT, "size": {"shortest_edge": 37}}),
    "crop larger than the resized": ("CLIP", {**SHORT, "size": {"shortest_edge": 24}}),
    "squash": ("CLIP", {"size": SQUARE, "do_center_crop": False}),
    "squash, then crop": ("CLIP", {"size": {"height": 48, "width": 40}, **CROP}),
    "crop alone": ("CLIP", {**SHORT, "do_resize": False}),
    "no rescaling": ("CLIP", {**SHORT, "do_rescale": False, "image_mean": [99, 101, 3], "image_std": [50, 60, 70]}),
    "another factor": ("CLIP", {**SHORT, "rescale_factor": 1 / 127.5}),
    "no normalising": ("CLIP", {**SHORT, "do_normalize": False}),
    "neither": ("CLIP", {**SHORT, "do_normalize": False, "do_rescale": False}),
    "one number for all channels": ("Siglip", {"size": SQUARE, "image_mean": 0.5, "image_std": 0.25}),
    "nearest": ("CLIP", {**SHORT, "resample": 0}),
    "lanczos": ("CLIP", {**SHORT, "resample": 1}),
    "bilinear": ("CLIP", {**SHORT, "resample": 2}),
    "box": ("CLIP", {**SHORT, "resample": 4}),
    "hamming": ("CLIP", {**SHORT, "resample": 5}),
    "all of it, on black": ("CLIP", {**CROP, "size": {"max_height": 32, "max_width": 32}}),
    "square size": ("CLIP", {**CROP, "use_square_size": True, "size": SQUARE}),
    "not square by word": ("ViT", {"size": 36, "default_to_square": False, **CROP}),
    "padding that does nothing": ("CLIP", {**SHORT, "do_pad": True}),
    "SigLIP": ("Siglip", {"size": SQUARE}),
    "ViT": ("ViT", {"size": SQUARE}),
    "ViT, as old files say it": ("ViT", {"size": 32}),
    "DeiT": ("DeiT", {"size": {"height": 36, "width": 36}, "crop_size": SQUARE}),
    "BEiT": ("Beit", {"size": SQUARE, "do_reduce_labels": False}),
    "DINOv2": ("Bit", {"size": {"shortest_edge": 36}, "crop_size": SQUARE, "do_center_crop": True}),
    "ConvNeXt": ("ConvNext", {"size": {"shortest_edge": 32}}),
    "ConvNeXt, another share": ("ConvNext", {"size": {"shortest_edge": 32}, "crop_pct": 0.95}),
    "ChineseCLIP": ("ChineseCLIP", {"size": {"height": 32, "width": 32}, "crop_size": SQUARE}),
}  # fmt: skip
SHAPES = [(47, 61), (61, 47), (32, 32), (20, 45), (9, 12), (100, 101), (33, 45)]


def smooth(height: int, width: int) -> np.ndarray:
    """Smooth but lopsided, so that a shift by one pixel shows and rounding to bytes does not."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    planes = [np.sin(x / 3 + c) * np.cos(y / 4) * 0.4 + 0.5 for c in range(3)]
    return (np.stack(planes, axis=2) * 255).astype(np.uint8)


def png(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def ours(name: str, settings: Json) -> Preprocess:
    given = {"image_processor_type": f"{name}ImageProcessor", **settings}
    return preprocess("here", given, Tower("clip_vision_model", 32, True), white=_puts_on_white())


def theirs(name: str, settings: Json, end: str = "") -> Any:
    import transformers

    return getattr(transformers, f"{name}ImageProcessor{end}")(**settings)


def framed(step: Preprocess, data: bytes) -> torch.Tensor:
    """What verbs do with a picture's file."""
    found = decode(data, step.frame)
    assert found is not None
    return step(torch.tensor(found)[None] / 255)


def bytes_apart(a: torch.Tensor, b: torch.Tensor, step: Preprocess) -> float:
    """Largest difference of normalised pixels, in steps of one byte."""
    assert a.shape == b.shape
    return float(((a - b).abs() * torch.tensor(step.std).view(1, 3, 1, 1)).max()) * 255


def nearest_but_ties(a: torch.Tensor, b: torch.Tensor, step: Preprocess) -> bool:
    """Where two pixels are equally near, Pillow and torch take different ones."""
    return step.frame.mode == "nearest" and float(((a - b).abs() > 1e-5).float().mean()) < 0.1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("case", list(TABLE))
def test_pictures_are_those_of_the_processor(case: str, shape: tuple[int, int]) -> None:
    name, settings = TABLE[case]
    settings = {"image_mean": MEAN, "image_std": STD, **settings}
    image, step = Image.fromarray(smooth(*shape)), ours(name, settings)
    found = framed(step, png(image))
    assert found.shape == (1, 3, 32, 32)
    # Pillow's arithmetic is that of verbs; torch rounds bytes elsewhere, and has some filters in some versions alone.
    slow = theirs(name, settings, "Pil")(image, return_tensors="pt")["pixel_values"]
    shifted = any(side < 32 and (32 - side) % 2 for side in step.frame.resized(*shape))
    if not shifted:  # Pillow's and torch's processors put an odd rest of black on different sides; ours goes with torch
        assert bytes_apart(found, slow, step) < 0.01
    rounding = {"bicubic": 2.1, "lanczos": 2.1, "nearest": 0.01}.get(step.frame.mode, 1.1)
    if step.frame.mode in ("bicubic", "bilinear", "nearest"):
        fast = theirs(name, settings)(image, return_tensors="pt")["pixel_values"]
        assert bytes_apart(found, fast, step) < rounding or nearest_but_ties(found, fast, step)
    # On tensors, where nothing is rounded to bytes.
    pixels = torch.from_numpy(smooth(*shape)).permute(2, 0, 1)[None] / 255
    if shape != (32, 32) or step.frame.resized(*shape) == shape:  # else it would count as framed already
        pixels.requires_grad_(True)
        made = step(pixels)
        made_apart = bytes_apart(made.detach(), found, step)
        assert made_apart < rounding or nearest_but_ties(made.detach(), found, step)
        made.sum().backward()
        assert pixels.grad is not None and bool(pixels.grad.any())


def odd_pictures() -> dict[str, Image.Image]:
    plain = Image.fromarray(smooth(40, 50))
    alpha = Image.fromarray((np.mgrid[0:40, 0:50][1] * 5).astype(np.uint8))
    clear = plain.copy()
    clear.putalpha(alpha)
    palette = plain.quantize(16)
    grey_alpha = Image.merge("LA", (plain.convert("L"), alpha))
    return {
        "grey": plain.convert("L"), "two colours": plain.convert("1"), "palette": palette, "RGBA": clear,
        "grey with alpha": grey_alpha, "RGB": plain,
    }  # fmt: skip


# PNG knows one transparent color in some modes.
ONE_CLEAR: dict[str, Json] = {
    "palette": {"transparency": 3}, "grey": {"transparency": 120}, "RGB": {"transparency": (255, 0, 0)},
}  # fmt: skip


@pytest.mark.parametrize(("kind", "options"), [*((kind, {}) for kind in odd_pictures()), *ONE_CLEAR.items()])
def test_pictures_of_any_mode(kind: str, options: Json) -> None:
    settings = {**SHORT, "image_mean": MEAN, "image_std": STD}
    image, step = odd_pictures()[kind], ours("CLIP", settings)
    data = png(image, **options)
    opened = Image.open(io.BytesIO(data))
    wanted = theirs("CLIP", settings, "Pil")(opened, return_tensors="pt")["pixel_values"]
    assert bytes_apart(framed(step, data), wanted, step) < 0.01


def test_neither_library_turns_pictures_by_their_exif() -> None:
    image = Image.fromarray(smooth(40, 50))
    exif = image.getexif()
    exif[0x0112] = 6  # a quarter turn
    file = io.BytesIO()
    image.save(file, "JPEG", quality=100, exif=exif)
    settings = {**SHORT, "image_mean": MEAN, "image_std": STD}
    wanted = theirs("CLIP", settings, "Pil")(Image.open(file), return_tensors="pt")["pixel_values"]
    step = ours("CLIP", settings)
    assert bytes_apart(framed(step, file.getvalue()), wanted, step) < 0.01


@pytest.mark.parametrize("name", ["CLIP", "ChineseCLIP", "Bit", "ViT", "Siglip", "DeiT", "Beit", "ConvNext"])
@pytest.mark.parametrize("spelling", ["{}ImageProcessor", "{}ImageProcessorFast", "{}FeatureExtractor"])
def test_what_a_file_leaves_out_is_the_class_s_own(name: str, spelling: str) -> None:
    side = 384 if name == "ConvNext" else 224
    step = preprocess(
        "here", {"image_processor_type": spelling.format(name)}, Tower("clip_vision_model", side, True), white=True
    )
    image = Image.fromarray(smooth(300, 410))
    wanted = theirs(name, {}, "Pil")(image, return_tensors="pt")["pixel_values"]
    assert bytes_apart(framed(step, png(image)), wanted, step) < 0.01


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"image_processor_type": "PixtralImageProcessor"}, "image processor 'PixtralImageProcessor' is not supported"),
        ({"image_processor_type": "CLIP"}, "image processor 'CLIP' is not supported"),
        ({"image_processor_type": ["CLIPImageProcessor"]}, "is not supported"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order is set"),
        ({"rescale_offset": True}, "rescale_offset is set"),
        ({"do_resize": "no"}, "do_resize is 'no'; must be true or false"),
        ({"do_resize": False, "do_center_crop": False}, "neither do_resize nor do_center_crop"),
        ({"do_center_crop": False, "size": {"shortest_edge": 32}}, "gives pictures of any shape"),
        ({"do_center_crop": False, "size": {"height": 32, "width": 40}}, "only square towers work"),
        ({"crop_size": {"height": 32, "width": 40}}, "only square towers work"),
        ({"crop_size": {"shortest_edge": 32}}, "is no height and width"),
        ({"size": {"longest_edge": 32}}, "size with longest_edge is not supported"),
        ({"size": {"shortest_edge": 32, "longest_edge": 64}}, "longest_edge, shortest_edge is not supported"),
        ({"size": {"shortest_edge": 10**6}}, "no number of pixels from 1 to 2048"),
        ({"size": 0}, "no number of pixels"),
        ({"size": True}, "no number of pixels"),
        ({"size": "32"}, "no number of pixels"),
        ({"crop_size": 40}, "its pictures have 40 pixels a side, but the image tower takes 32"),
        ({"resample": 9}, "resample 9 is none of 0, 1, 2, 3, 4, 5"),
        ({"resample": "bicubic"}, "resample 'bicubic' is none of"),
        ({"rescale_factor": 0}, "rescale_factor 0 is no usable number"),
        ({"rescale_factor": "1/255"}, "is no usable number"),
        ({"image_mean": [10**400] * 3}, "image mean must be three numbers"),
        ({"image_mean": [float("nan")] * 3}, "image mean must be three numbers"),
        ({"image_mean": [0.5, 0.5]}, "image mean must be three numbers"),
        ({"image_mean": [0.5, 0.5, "x"]}, "image mean must be three numbers"),
        ({"image_std": [0.5, 0.5, 0]}, "image std must be three positive numbers"),
        ({"image_std": 1e-30}, "image std must be three positive numbers"),
        ({"do_pad": True, "pad_size": {"height": 64, "width": 64}}, "do_pad with pad_size"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"height": 32, "width": 32}}, "no shortest_edge"),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 32}, "crop_pct": 1e-5},
            "no usable share",
        ),
    ],
)
def test_settings_that_are_refused(settings: Json, part: str) -> None:
    with pytest.raises(InputError) as caught:
        preprocess("here", settings, Tower("clip_vision_model", 32, True), white=True)
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_the_part_of_a_processor_comes_first_as_in_the_library(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 1}))
    assert read_settings(tmp_path) == {"size": 1}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_seq_len": 3}))
    assert read_settings(tmp_path) == {"size": 1}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": {"size": 2}}))
    assert read_settings(tmp_path) == {"size": 2}


def test_a_tower_of_any_size_takes_the_processor_s() -> None:
    tower = Tower("dinov2", 518, False)
    settings = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True}
    assert preprocess("here", settings, tower, white=True).size == 224
    assert preprocess("here", {}, tower, white=True).size == 518
