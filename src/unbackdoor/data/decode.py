"""Decode once, keep bytes: pictures to uint8 squares in a pool of threads, unreadable ones skipped and counted."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unbackdoor.base.progress import Progress
from unbackdoor.clip.preprocess import Frame
from unbackdoor.data.source import Picture

_CHUNK = 512
# What a file is called does not decide what Pillow takes it for, and it knows formats that start other programs (EPS).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_LONGEST = 16  # sides to each other; the rest of a longer strip is cut off, and would be resized for nothing
_MODES = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}


def decode(picture: Picture, frame: Frame) -> np.ndarray | None:
    """One picture as uint8 (3, side, side), framed as the libraries' own transforms frame it.

    None when it cannot be read (corrupt, none of the usual formats, absurdly large).
    """
    try:
        if isinstance(picture, bytes):
            with Image.open(io.BytesIO(picture), formats=_FORMATS) as opened:
                # Pillow itself refuses only above twice the limit, and warns below that.
                if Image.MAX_IMAGE_PIXELS and opened.width * opened.height > Image.MAX_IMAGE_PIXELS:
                    return None
                image = _rgb(_eight_bit(opened), white=frame.white)
        else:
            image = Image.fromarray(picture).convert("RGB")
        image = _framed(image, frame)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    pixels: np.ndarray = np.asarray(image).transpose(2, 0, 1)
    return pixels


def _framed(image: Image.Image, frame: Frame) -> Image.Image:
    short, side = min(image.size), frame.side
    trimmed = frame.fit == "shortest" and min(frame.resized(1, 1)) * _LONGEST >= side
    if trimmed and max(image.size) > _LONGEST * short:
        left, top = (max(0, length - _LONGEST * short) // 2 for length in image.size)
        image = image.crop((left, top, image.width - left, image.height - top))
    height, width = frame.resized(image.height, image.width)
    if image.size != (width, height):
        image = image.resize((width, height), _MODES[frame.mode])
    left, top = frame.margin(width), frame.margin(height)
    return image if image.size == (side, side) else image.crop((left, top, left + side, top + side))


def _rgb(image: Image.Image, *, white: bool) -> Image.Image:
    if white and ("A" in image.getbands() or image.info.get("transparency") is not None):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Pillow clips 16-bit grey at 255, which turns such pictures white; scale it instead."""
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def decode_all(
    picture: Callable[[int], Picture], rows: Sequence[int], frame: Frame, label: str | None
) -> tuple[Tensor, list[int]]:
    """Decode records `rows`, with a progress bar if it has a label.

    Returns:
        uint8 (K, 3, side, side) and the K row numbers that could be read, in order.
    """

    def one(row: int) -> np.ndarray | None:
        try:
            return decode(picture(row), frame)
        except (OSError, ValueError):  # ValueError: a path with a null byte
            return None

    # Filled in place, so that the whole set is held once; readable rows close the gaps of unreadable ones.
    out = torch.empty(len(rows), 3, frame.side, frame.side, dtype=torch.uint8)
    view, good = out.numpy(), list[int]()
    # Here and not in `decode`: catch_warnings is not thread-safe, and leaves the filters of the whole process changed.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with ThreadPoolExecutor(os.cpu_count()) as pool, Progress(label or "", len(rows), quiet=label is None) as bar:
            for start in range(0, len(rows), _CHUNK):
                part = rows[start : start + _CHUNK]
                for row, pixels in zip(part, pool.map(one, part), strict=True):
                    if pixels is not None:
                        view[len(good)] = pixels
                        good.append(row)
                bar.step(start + len(part))
    return (out if len(good) == len(rows) else out[: len(good)].clone()), good
