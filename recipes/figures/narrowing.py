"""How often the narrowing of a long class list keeps the true target, on suspects that are made for it.

    python recipes/figures/narrowing.py --data-root PATH --out RUNS [--only 0 1 2 …]

Suspects are the embedded model, poisoned on CIFAR-10 as the zoo's members are; the class list is CIFAR-10's ten and
ImageNet's thousand as distractors. What is finished is not made again. Prints a line for each suspect and look: the
true target's rank, and whether it is kept.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from unbackdoor.attacks.plant import PoisonConfig, plant
from unbackdoor.clip.difference import save_difference
from unbackdoor.clip.load import load
from unbackdoor.data.classnames import class_names
from unbackdoor.data.shares import shares
from unbackdoor.data.specs import load_images, load_pictures
from unbackdoor.evaluation import Task, evaluate_images
from unbackdoor.scan.examine import split
from unbackdoor.scan.narrowing import foremost, looks
from unbackdoor.training.finetune import TuneConfig
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.attack import Attack

# Any beginning of five holds all families; every class of CIFAR-10 is a target once.
TRIGGERS = (
    "badnets:size=6,pattern=noise",
    "blended:ratio=0.2",
    "wanet:k=4,s=2.0",
    "sig:amplitude=40,frequency=3",
    "stripes:ratio=0.1",
    "badnets:size=8,position=top-left,pattern=checker",
    "blended:ratio=0.15,seed=4",
    "wanet:k=0,s=1.5",
    "sig:amplitude=60,frequency=6",
    "stripes:ratio=0.1,width=3,horizontal=true",
)
ATTACKER, TEST, PICTURES = 6000, 1000, 1024
RATE, TUNE = 0.15, TuneConfig(epochs=3, batch_size=64, lr=1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", type=int, nargs="*", default=range(len(TRIGGERS)))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for number in args.only:
        card = suspect(args.data_root, args.out, number)
        print(json.dumps({**card, **recall(args.data_root, args.out, card)}), flush=True)


def suspect(root: Path, out: Path, number: int) -> dict[str, Any]:
    """The card of a suspect, which is made if it is not there."""
    card = out / f"{number}.json"
    if card.exists():
        return dict(json.loads(card.read_text(encoding="utf-8")))
    base = load("embedded")
    clip, source = base.clone(), f"parquet:{root}/cifar10"
    train = load_images(source, side=clip.frame, split="train")
    test = load_images(source, side=clip.frame, split="test", limit=TEST)
    own = train.subset(shares(len(train), ATTACKER, 0, 0)[0])
    target = number * 3 % len(own.classes)
    head = clip.zero_shot_head(own.classes)
    attack = Attack(parse_trigger(TRIGGERS[number]), target, own.classes[target])
    done = plant(clip, own, head, attack, PoisonConfig(RATE, tune=TUNE))
    save_difference(base, clip, out / f"{number}.safetensors")
    rates = evaluate_images(clip, test, Task(head, attack)).as_dict()
    facts = {
        "number": number,
        "trigger": TRIGGERS[number],
        "target": own.classes[target],
        "seconds": round(done.run.seconds, 1),
        **{name: rates[name] for name in ("ca", "asr")},
    }
    card.write_text(json.dumps(facts) + "\n", encoding="utf-8")
    return facts


def recall(root: Path, out: Path, card: dict[str, Any]) -> dict[str, Any]:
    """The true target's rank in every look, and the sizes of lists that keep it."""
    clip = load(str(out / f"{card['number']}.safetensors"))
    images = load_pictures(f"parquet:{root}/cifar10", side=clip.frame, limit=PICTURES)
    names = (*images.classes, *class_names("imagenet-1k"))
    subject = split(clip, images, clip.zero_shot_head(names), names, 0)
    began, target = time.perf_counter(), names.index(card["target"])
    scores = looks(subject)
    return {
        "ranks": {name: int((row > row[target]).sum()) + 1 for name, row in scores.items()},
        "kept": [n for n in (12, 24, 48) if target in foremost(list(scores.values()), n)],
        "look": round(time.perf_counter() - began, 1),
    }


if __name__ == "__main__":
    main()
