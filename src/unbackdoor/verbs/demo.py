"""`demo`: the whole story on the embedded model and pictures: poison it, cure it, show both."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from unbackdoor.base import journal
from unbackdoor.base.manifest import run_key, versions, write_json
from unbackdoor.data import load_images
from unbackdoor.runs.case import open_model
from unbackdoor.runs.parameters import keywords
from unbackdoor.runs.run import weights_hash
from unbackdoor.verbs.configs.models import DEMO
from unbackdoor.verbs.poison import poison
from unbackdoor.verbs.results import DemoResult, PlantResult
from unbackdoor.verbs.unlearn import unlearn

DATA = "embedded:scenes"
TRIGGER = "badnets:size=6,position=bottom-right,pattern=checker"
TARGET = "plain white heart"


@keywords(DEMO)
def demo(*, out: str | Path, seed: int) -> DemoResult:
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
    # Beside the demo's own work folder, which `unlearn` keeps and removes: the first half is not made twice.
    made = out / "suspect" / ".made.jsonl"
    key = run_key("demo", seed, weights_hash(clip), versions()["unbackdoor"])
    kept = [row.suspect for row in journal.read(made, _Made) if row.key == key]
    if kept and (out / "suspect" / "model").is_dir():
        suspect = kept[-1]
    else:
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
        journal.append(made, {"key": key, "suspect": suspect})
    cure = unlearn(
        model=open_model(str(out / "suspect")),
        data=train,
        test=test,
        trigger=TRIGGER,
        target=TARGET,
        out=out,
        seed=seed,
        verb="demo",
        extra={"original": suspect.before, "suspect": suspect.model},
    )
    seconds = {"cure_seconds": cure.seconds, "seconds": round(time.perf_counter() - began, 2)}
    result = DemoResult.read({**cure, **seconds})
    write_json(out / "result.json", result)
    made.unlink(missing_ok=True)
    return result


@dataclass(frozen=True)
class _Made:
    """The suspect of a demo that was killed while it was being cured."""

    key: str
    suspect: PlantResult
