"""From a spec string to image–caption pairs: streamed from disk where the source holds captions, else decoded once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from unbackdoor.base.errors import InputError
from unbackdoor.clip.preprocess import Frame
from unbackdoor.data.pairs import Pairs, Wording, class_pairs
from unbackdoor.data.specs import load_images, open_pair_parts
from unbackdoor.data.stream import PairStream

CAPTION_FILE = "captions.json"  # taken without being named when it lies beside labelled data


def open_pairs(
    spec: str,
    *,
    side: int | Frame,
    split: str | None = "train",
    wording: Wording | None = None,
    limit: int | None = None,
    seed: int = 0,
    classes: str | None = None,
) -> Pairs:
    """Image–caption pairs of a source.

    * WebDataset shards (`wds:`), tables (`csv:`) and Parquet files with a caption column are streamed: images and
      captions are read when a batch asks for them, and memory does not grow with their number. Shards and tables are
      read whole; hold pairs out by naming other shards.
    * Everything else is decoded once and kept as bytes: labelled images, whose captions are made of class names, and
      small captioned sets.

    Args:
        split: as in `load_images`; for the streamed kinds only a Parquet folder has splits.
        wording: what is said of labelled images.
        limit: use at most so many pairs: of a stream the same share of every part, otherwise drawn with `seed`.
        classes: as in `load_images`.

    Raises:
        InputError: anything unusable in the above, or a source with neither captions nor class names.
    """
    wording = wording or Wording()
    parts = None if wording.captions is not None else open_pair_parts(spec, split)
    if parts is not None:
        if limit is not None and limit < 1:
            raise InputError(f"limit {limit}: must be at least 1")
        return PairStream(spec, parts, side, limit, seed)
    images = load_images(spec, side=side, split=split, limit=limit, seed=seed, classes=classes)
    captions = _beside(spec) if wording.captions is None else wording.captions
    return replace(class_pairs(images, wording.templates, captions), seed=seed)


def _beside(spec: str) -> Path | None:
    place = Path(spec.partition(":")[2].partition("#")[0])
    file = (place if place.is_dir() else place.parent) / CAPTION_FILE
    return file if file.is_file() else None
