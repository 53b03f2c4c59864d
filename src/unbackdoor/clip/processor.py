"""The settings of a Hugging Face image processor as a `Preprocess`: every one honoured, or refused in one line.

The order is the library's own: to RGB, resize, centre crop, rescale, normalise. A setting that a file
leaves out has the default of the processor's class; a size that it leaves out is the image tower's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unbackdoor.base.errors import InputError
from unbackdoor.base.untrusted import read_json
from unbackdoor.clip.preprocess import CLIP_MEAN, CLIP_STD, LARGEST, Frame, Preprocess, checked, checked_side

Settings = Mapping[str, Any]
FILE, _PART_OF = "preprocessor_config.json", "processor_config.json"
_HALF = (0.5, 0.5, 0.5)  # what the library calls ImageNet's standard mean and std
# PIL.Image.Resampling
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_NARROW = 384  # ConvNeXt's processor crops below this side and squashes from it on
_OF_CLIP = {"resample": 3, "image_mean": CLIP_MEAN, "image_std": CLIP_STD, "square": False, "do_center_crop": True}
_OF_VIT = {"resample": 2, "image_mean": _HALF, "image_std": _HALF, "square": True, "do_center_crop": False}
# What each class has where a file says nothing. `square`: a size that is one number means height and width. `margin`:
# resized to by cut out.
_CLASSES: dict[str, dict[str, Any]] = {
    "CLIP": _OF_CLIP,
    "ChineseCLIP": _OF_CLIP,
    "Bit": _OF_CLIP,
    "ViT": _OF_VIT,
    "Siglip": {**_OF_VIT, "resample": 3},
    "DeiT": {**_OF_VIT, "resample": 3, "do_center_crop": True, "margin": 256 / 224},
    "Beit": {**_OF_VIT, "resample": 3},
    "ConvNext": {**_OF_VIT, "resample": 3, "square": False, "side": 384},
}
_SIDE = 224  # of all other classes
# The class that the library takes for a tower of this type.
_BY_TYPE = {
    "clip_vision_model": "CLIP",
    "altclip_vision_model": "CLIP",
    "metaclip_2_vision_model": "CLIP",
    "chinese_clip_vision_model": "ChineseCLIP",
    "siglip_vision_model": "Siglip",
    "vit": "ViT",
    "swin": "ViT",
    "swinv2": "ViT",
    "deit": "DeiT",
    "beit": "Beit",
    "dinov2": "Bit",
    "dinov2_with_registers": "Bit",
    "convnext": "ConvNext",
    "convnextv2": "ConvNext",
}
_STEPS = ("do_convert_rgb", "do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_pad", "do_reduce_labels")
_VALUES = (
    "size", "crop_size", "pad_size", "resample", "rescale_factor", "image_mean", "image_std", "crop_pct",
    "default_to_square", "use_square_size",
)  # fmt: skip


@dataclass(frozen=True)
class Tower:
    """What an image tower takes.

    Args:
        kind: its model type.
        side: of its pictures, in pixels.
        fixed: whether it takes no other.
    """

    kind: str
    side: int
    fixed: bool


def read_settings(folder: Path) -> dict[str, Any] | None:
    """The image processor's settings: a file of its own, or, since transformers 5, a part of the processor's; or none.

    Raises:
        InputError: not readable JSON.
    """
    # In the library's own order.
    if (folder / _PART_OF).is_file():
        settings = read_json(folder / _PART_OF).get("image_processor")
        if isinstance(settings, dict):
            return settings
    return read_json(folder / FILE) if (folder / FILE).is_file() else None


def preprocess(what: str, settings: Settings, tower: Tower, *, white: bool) -> Preprocess:
    """What a processor with these settings does to a picture.

    Args:
        what: where the settings stand, for the error.
        settings: as in `preprocessor_config.json`; none for the class that goes with the tower.
        white: what lies behind transparent pixels, see `Frame`.

    Raises:
        InputError: another processor than those known here, a step that is not, or pictures that the tower cannot take.
    """
    name = _class(what, settings, tower)
    _check_steps(what, settings, name)
    own = {**_CLASSES[name], **{k: settings[k] for k in (*_STEPS, *_VALUES) if settings.get(k) is not None}}
    # A tower that takes one size alone could not use the class's own.
    default = tower.side if tower.fixed or not settings else own.get("side", _SIDE)
    frame = _frame(what, own, name, default)
    if tower.fixed and frame.side != tower.side:
        raise InputError(
            f"{what}: its pictures have {frame.side} pixels a side, but the image tower takes {tower.side}; "
            "correct size or crop_size"
        )
    scale = 255 * _number(what, own, "rescale_factor", 1 / 255) if own.get("do_rescale", True) else 255.0
    mean, std = _three(own["image_mean"]), _three(own["image_std"])
    if not own.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return checked(what, replace(frame, white=white), mean=_over(mean, scale), std=_over(std, scale))


def _class(what: str, settings: Settings, tower: Tower) -> str:
    kind = settings.get("image_processor_type") or settings.get("feature_extractor_type")
    if kind is None:
        return _BY_TYPE[tower.kind]
    name = str(kind)
    for end in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        name = name.removesuffix(end)
    if name not in _CLASSES or name == str(kind):
        raise InputError(
            f"{what}: image processor {kind!r} is not supported; known are "
            f"{', '.join(f'{n}ImageProcessor' for n in _CLASSES)}"
        )
    return name


def _check_steps(what: str, settings: Settings, name: str) -> None:
    for key, value in settings.items():
        if key in _STEPS and not isinstance(value, bool | None):
            raise InputError(f"{what}: {key} is {value!r}; must be true or false")
        if value and (key in ("rescale_offset", "size_divisor") or (key.startswith("do_") and key not in _STEPS)):
            raise InputError(f"{what}: {key} is set, which {name}ImageProcessor does not have; it is not supported")
    if settings.get("do_pad") and settings.get("pad_size"):
        raise InputError(f"{what}: do_pad with pad_size is not supported; the image tower takes squares of one size")


def _frame(what: str, own: Settings, name: str, default_side: int) -> Frame:
    resample = own["resample"]
    if type(resample) is not int or resample not in _RESAMPLE:
        raise InputError(f"{what}: resample {resample!r} is none of {', '.join(map(str, _RESAMPLE))}, Pillow's filters")
    mode, resize, crop = _RESAMPLE[resample], own.get("do_resize", True), own["do_center_crop"]
    default = int(default_side * own.get("margin", 1))
    size = _size(what, "size", own.get("size", default), square=bool(own.get("default_to_square", own["square"])))
    if own.get("use_square_size") and name == "CLIP":
        size = {"height": _SIDE, "width": _SIDE}  # whatever size is given
    if name == "ConvNext" and resize:
        return _narrow_frame(what, own, size, mode)
    side = None
    if crop:
        sides = _size(what, "crop_size", own.get("crop_size", default_side), square=True)
        if set(sides) != {"height", "width"}:
            raise InputError(f"{what}: crop_size {own.get('crop_size')!r} is no height and width")
        side = checked_side(f"{what}: crop_size", [sides["height"], sides["width"]])
    if not resize:
        if side is None:
            raise InputError(f"{what}: neither do_resize nor do_center_crop is set; the image tower takes one size")
        return Frame(side, mode, "none", floor_crop=True)
    fit, edges = _fit(what, size)
    if side is None:
        if fit != "squash":
            raise InputError(
                f"{what}: size {own.get('size')!r} without do_center_crop gives pictures of any shape; "
                "the image tower takes squares of one size"
            )
        side = checked_side(f"{what}: size", list(edges))
    return Frame(side, mode, fit, floor_crop=True, edges=None if edges == (side, side) else edges)


def _narrow_frame(what: str, own: Settings, size: dict[str, int], mode: str) -> Frame:
    """ConvNeXt's: resized to side / crop_pct and cut, or squashed where the side is large."""
    side = size.get("shortest_edge")
    if set(size) != {"shortest_edge"} or side is None:
        raise InputError(f"{what}: size {own.get('size')!r} of ConvNextImageProcessor is no shortest_edge")
    if own["do_center_crop"]:
        raise InputError(f"{what}: do_center_crop of ConvNextImageProcessor is not supported; it crops by crop_pct")
    if side >= _NARROW:
        return Frame(side, mode, "squash", floor_crop=True)
    share = _number(what, own, "crop_pct", 224 / 256)
    edge = int(side / share) if share > 0 else 0
    if not 1 <= edge <= LARGEST:
        raise InputError(f"{what}: crop_pct {share!r} is no usable share")
    return Frame(side, mode, "shortest", floor_crop=True, edges=(edge, edge))


def _fit(what: str, size: Mapping[str, int]) -> tuple[str, tuple[int, int]]:
    keys = set(size)
    if keys == {"height", "width"}:
        return "squash", (size["height"], size["width"])
    if keys == {"shortest_edge"}:
        return "shortest", (size["shortest_edge"], size["shortest_edge"])
    if keys == {"max_height", "max_width"}:
        return "longest", (size["max_height"], size["max_width"])
    raise InputError(
        f"{what}: size with {', '.join(sorted(keys))} is not supported; give height and width, shortest_edge, or "
        "max_height and max_width"
    )


def _size(what: str, key: str, value: Any, *, square: bool) -> dict[str, int]:
    """The library's reading of a size: a number, height and width, or a dictionary."""
    if isinstance(value, list) and len(value) == 2:
        value = {"height": value[0], "width": value[1]}
    if type(value) is int:
        value = {"height": value, "width": value} if square else {"shortest_edge": value}
    if isinstance(value, dict):
        value = {k: v for k, v in value.items() if v is not None}
    sides = list(value.values()) if isinstance(value, dict) else []
    if not sides or not all(type(side) is int and 1 <= side <= LARGEST for side in sides):
        raise InputError(f"{what}: {key} {value!r} is no number of pixels from 1 to {LARGEST}, nor some by name")
    return dict(value)


def _number(what: str, own: Settings, key: str, default: float) -> float:
    value = own.get(key, default)
    if type(value) not in (int, float) or not 1e-6 <= value <= 1e6:
        raise InputError(f"{what}: {key} {value!r} is no usable number")
    return float(value)


def _three(value: Any) -> Any:
    """One number stands for all channels."""
    return [value] * 3 if type(value) in (int, float) else value


def _over(values: Any, scale: float) -> Any:
    """Per channel in [0, 1] units, where the processor works in other ones; what is no number is refused later."""
    if scale == 1 or not isinstance(values, list | tuple) or not all(type(v) in (int, float) for v in values):
        return values
    return [v / scale for v in values]
