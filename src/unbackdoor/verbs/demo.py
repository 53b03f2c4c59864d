"""`demo`: the whole story on the embedded model and pictures: poison it, cure it, show both."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from unbackdoor.data import load_images
from unbackdoor.manifest import write_json
from unbackdoor.verbs.common import open_model
from unbackdoor.verbs.poison import poison
from unbackdoor.verbs.unlearn import unlearn

DATA = "embedded:scenes"
TRIGGER = "badnets:size=6,position=bottom-right,pattern=checker"
TARGET = "plain white heart"


def demo(*, out: str | Path = "unbackdoor-demo", seed: int = 0) -> dict[str, Any]:
    """Poison the embedded CLIP with a BadNets patch on drawn scenes, then unlearn the backdoor.

    No download, no GPU. Leaves `suspect/` (the poisoned model) and the cure's files in `out`.

    Returns:
        The result of `unlearn`, with the time of the whole story and the rates of the model before it was poisoned.
    """
    began = time.perf_counter()
    out = Path(out)
    clip = open_model("embedded")
    train = load_images(DATA, side=clip.frame, split="train")
    test = load_images(DATA, side=clip.frame, split="test")
    suspect = poison(
        model=clip,
        data=train,
        test=test,
        trigger=TRIGGER,
        target=TARGET,
        out=out / "suspect",
        poison_rate=0.1,
        epochs=6,
        batch_size=64,
        seed=seed,
    )
    result = unlearn(
        model=open_model(str(out / "suspect")),
        data=train,
        test=test,
        trigger=TRIGGER,
        target=TARGET,
        out=out,
        seed=seed,
        verb="demo",
        extra={"original": suspect["before"], "suspect": suspect["model"]},
    )
    result["cure_seconds"] = result["seconds"]
    result["seconds"] = round(time.perf_counter() - began, 2)
    write_json(out / "result.json", result)
    return result
