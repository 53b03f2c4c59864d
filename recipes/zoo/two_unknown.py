"""Two backdoors in one model, of which nothing is known: does a scan find both, and does its cure remove both?

    python recipes/zoo/two_unknown.py --data-root PATH --out FOLDER [--pair badnets+blended] [--rounds 3]

Both are planted at once in the embedded model on CIFAR-10, each on a tenth of 12,000 images. The model is scanned, and
cured of what was found with the defaults of `unlearn --scan`; the true triggers measure alone. Prints a table and
writes `result.json`. A killed run goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import unbackdoor
from unbackdoor.attacks.plant import PoisonConfig, plant, poisoned_rows, poisoned_set
from unbackdoor.base.manifest import write_json
from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.data.shares import attacker_rows
from unbackdoor.evaluation import Task, evaluate_images
from unbackdoor.training.finetune import TuneConfig
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.attack import Attack

PAIRS = {
    "badnets+blended": (("badnets:size=6,pattern=checker", "airplane"), ("blended:ratio=0.2", "horse")),
    "badnets+sig": (("badnets:size=6,pattern=checker", "airplane"), ("sig:amplitude=60,frequency=6", "horse")),
}
RATE = 0.1


def twice_poisoned(train: ImageSet, attacks: list[Attack], config: PoisonConfig) -> ImageSet:
    """The training set with both attacks on different images."""
    first, mask = poisoned_set(train, attacks[0], config)
    rest = (~mask).nonzero().flatten()
    share = config.rate * len(train) / len(rest)
    rows = rest[poisoned_rows(train.labels[rest], attacks[1], replace(config, rate=share))]
    images, labels = first.images, first.labels.clone()
    for part in rows.split(256):
        images[part] = (attacks[1].trigger(train.float_batch(part), keys=part) * 255).round().to(torch.uint8)
    labels[rows] = attacks[1].target
    return replace(first, labels=labels)


def suspect(clip: Clip, train: ImageSet, attacks: list[Attack], args: argparse.Namespace) -> Clip:
    """The model with both backdoors, planted unless the folder holds it."""
    folder = args.out / args.pair
    if not (folder / "model").exists():
        rows = attacker_rows(len(train))[: args.attacker]
        config = PoisonConfig(RATE, tune=TuneConfig(epochs=3, lr=1e-3, seed=args.seed))
        own = twice_poisoned(train.subset(rows), attacks, config)
        (folder / ".work").mkdir(parents=True, exist_ok=True)
        plant(clip, own, clip.zero_shot_head(train.classes), None, config, work=Work(folder / ".work", args.pair))
        clip.save(folder / "model")
    return unbackdoor.load(f"local-dir:{folder / 'model'}")


def states(spec: str, clip: Clip, args: argparse.Namespace) -> list[tuple[str, Clip, Mapping[str, Any], str]]:
    """The suspect and what each round leaves: name, model, the scan of it, and what the round says of itself."""
    folder = args.out / args.pair
    scanned = folder / "scan" / "finding.json"
    if not scanned.exists():
        unbackdoor.scan(model=clip, data=spec, out=folder / "scan", seed=args.seed)
    finding = json.loads(scanned.read_text(encoding="utf-8"))
    rows = [("suspect", clip, finding, "")]
    if finding["backdoored"]:
        if not (folder / "cured" / "result.json").exists():
            unbackdoor.unlearn_scan(
                finding=scanned.parent,
                model=clip.clone(),
                data=spec,
                out=folder / "cured",
                rounds=args.rounds,
                seed=args.seed,
            )
        done = json.loads((folder / "cured" / "result.json").read_text(encoding="utf-8"))
        for number, made in enumerate(done["rounds"], 1):
            here = folder / "cured" / f"round-{number}"
            again = json.loads((here / "scan" / "finding.json").read_text(encoding="utf-8"))
            rows.append((f"round {number}", unbackdoor.load(f"local-dir:{here / 'model'}"), again, notes(made)))
        print(f"quiet: {done['quiet']}, left: {done['left']}, α {[r['alpha'] for r in done['rounds']]}", flush=True)
    return rows


def notes(made: Mapping[str, Any]) -> str:
    """What a round says of what it left."""
    return "; ".join(made[key] for key in ("not_whole", "short_of") if made.get(key))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pair", choices=tuple(PAIRS), default="badnets+blended")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--attacker", type=int, default=12000)
    parser.add_argument("--test-limit", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    spec = f"parquet:{args.data_root}/cifar10"
    clip = unbackdoor.load("embedded")
    train = unbackdoor.load_images(spec, side=clip.frame, split="train")
    test = unbackdoor.load_images(spec, side=clip.frame, split="test", limit=args.test_limit)
    attacks = [Attack(parse_trigger(t), train.classes.index(name), name) for t, name in PAIRS[args.pair]]
    result = []
    print("| state | CA | ASR of 1 | ASR of 2 | the scan of it | the cure's own words |\n" + "|" + " --- |" * 6)
    for state, model, found, words in states(spec, suspect(clip, train, attacks, args), args):
        head = model.zero_shot_head(train.classes)
        measured = [evaluate_images(model, test, Task(head, attack)).as_dict() for attack in attacks]
        rates = [measured[0]["ca"], *(m["asr"] for m in measured)]
        texts = [
            f"{100 * r['value']:.1f} [{100 * r['interval'][0]:.1f}, {100 * r['interval'][1]:.1f}], n = {r['n']}"
            for r in rates
        ]
        others = [row["target"] for row in found["others"]]
        scan = {key: found[key] for key in ("backdoored", "p_value", "message")}
        result.append({"state": state, "rates": rates, "scan": {**scan, "others": others}, "words": words})
        told = f"{found['backdoored']}, p = {found['p_value']:.2f}, {found['target']['name']}"
        told += "".join(f", also {other}" for other in others)
        print(f"| {state} | " + " | ".join(texts) + f" | {told} | {words} |", flush=True)
    write_json(args.out / f"{args.pair}.json", {"pair": args.pair, "rows": result})


if __name__ == "__main__":
    main()
