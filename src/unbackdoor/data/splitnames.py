"""What splits are called, in any case: `Train`, `training`, `Final_Training`, `testing`, `validation`, `val`."""

from __future__ import annotations

import re

SPLITS = ("train", "test", "validation", "valid", "val")
_SYNONYMS = {
    "training": "train", "trainset": "train", "final_training": "train", "train_images": "train",
    "testing": "test", "testset": "test", "final_test": "test", "test_images": "test",
    "val_images": "val",
}  # fmt: skip


def split_name(name: str) -> str | None:
    """The split that a folder of this name holds, None where it is no split's name."""
    plain = re.sub(r"[ -]+", "_", name.strip().lower())
    plain = _SYNONYMS.get(plain, plain)
    return plain if plain in SPLITS else None


def split_prefix(stem: str) -> str | None:
    """The split whose name a file's name begins with: `train-00000-of-00002`, `Testing.1`; None where there is none."""
    word = re.match(r"[a-z]+", stem.lower())
    return split_name(word.group(0)) if word else None
