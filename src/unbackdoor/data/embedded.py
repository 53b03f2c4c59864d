"""`embedded:scenes` and `embedded:digits`: pictures that need no download."""

from __future__ import annotations

from functools import partial
from threading import Lock

import numpy as np

from unbackdoor.base.errors import InputError
from unbackdoor.data.source import Source, SourceKind, Split

SCENE_COUNTS = {"train": (1, 3600), "test": (2, 1440)}  # seed and size; every class ten and four times
_DRAW = 256


def open_source(rest: str) -> Source:
    """The source `embedded:rest`."""
    if rest == "scenes":
        from unbackdoor.data import scenes

        return Source({name: partial(_scenes, *args) for name, args in SCENE_COUNTS.items()}, scenes.CLASS_NAMES)
    if rest == "digits":
        from unbackdoor.data import digits

        return Source({name: partial(_digits, name) for name in ("train", "test")}, digits.CLASS_NAMES)
    raise InputError(f"embedded:{rest}: no such embedded data; there are embedded:scenes and embedded:digits")


def _scenes(seed: int, count: int) -> Split:
    from unbackdoor.data import scenes

    index = np.arange(count)
    drawn: dict[int, np.ndarray] = {}
    drawing = Lock()

    def picture(i: int) -> np.ndarray:
        # Drawn in blocks: one by one would be ten times slower.
        block = i // _DRAW
        with drawing:  # decoding threads all come to a new block at once; one draws it, the others wait
            if block not in drawn:
                pixels = scenes.draw(seed, index[block * _DRAW : (block + 1) * _DRAW])
                drawn[block] = pixels.permute(0, 2, 3, 1).numpy()
        pixels_of: np.ndarray = drawn[block][i % _DRAW]
        return pixels_of

    return Split(scenes.labels(seed, index).tolist(), picture, scenes.captions(seed, index))


def _digits(split: str) -> Split:
    from unbackdoor.data import digits

    pictures, labels = digits.load(split)
    pixels = pictures.permute(0, 2, 3, 1).contiguous().numpy()
    return Split(labels.tolist(), lambda i: pixels[i], digits.captions(labels))


KIND = SourceKind(open_source)
