"""Two backdoors in one model, removed one at a time by their own vectors: does removing one leave the other as it was?

    python recipes/trials/two_backdoors.py --data-root PATH --out FOLDER

Both are planted at once in the embedded model on CIFAR-10: a corner patch to "airplane", a blend or wave to "horse",
each on a tenth of the training images. Each vector is taken from the suspect; α is chosen on validation images that
bear the vector's own trigger alone. Prints a table and writes `result.json`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import unbackdoor
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.data.poisoning import target_index
from unbackdoor.data.shares import shares
from unbackdoor.defenses import defense, defense_config
from unbackdoor.defenses.base import Defender
from unbackdoor.evaluation import Task, evaluate_images
from unbackdoor.manifest import Manifest, write_json
from unbackdoor.training.finetune import TuneConfig
from unbackdoor.training.plant import Attack, PoisonConfig, plant, poisoned_rows, poisoned_set
from unbackdoor.triggers import parse_trigger
from unbackdoor.work import Work

DEFENDER = (4096, 512)  # images to train on and to choose with
PAIRS = {
    "badnets+blended": (("badnets:size=6,pattern=checker", "airplane"), ("blended:ratio=0.2", "horse")),
    "badnets+sig": (("badnets:size=6,pattern=checker", "airplane"), ("sig:amplitude=60,frequency=6", "horse")),
}


def twice_poisoned(train: ImageSet, attacks: list[Attack], config: PoisonConfig) -> ImageSet:
    """The training set with both attacks on different images."""
    first, mask = poisoned_set(train, attacks[0], config)
    rest = (~mask).nonzero().flatten()
    own = poisoned_rows(train.labels[rest], attacks[1], replace(config, rate=config.rate * len(train) / len(rest)))
    rows = rest[own]
    images, labels = first.images, first.labels.clone()
    for part in rows.split(256):
        images[part] = (attacks[1].trigger(train.float_batch(part), keys=part) * 255).round().to(torch.uint8)
    labels[rows] = attacks[1].target
    return replace(first, labels=labels)


def measure(clip: Clip, test: ImageSet, head: torch.Tensor, attacks: list[Attack]) -> dict[str, Any]:
    """CA and both ASRs."""
    found = [evaluate_images(clip, test, Task(head, a.trigger, a.target)).as_dict() for a in attacks]
    return {
        "ca": found[0]["ca"],
        "asr": [f["asr"] for f in found],
        "triggered": [f["triggered_accuracy"] for f in found],
    }


def suspect(name: str, folder: Path, args: argparse.Namespace) -> tuple[Clip, ImageSet, list[Attack]]:
    """The embedded model with both backdoors, planted unless `folder` holds it; its training data; the attacks."""
    clip = unbackdoor.load("embedded")
    train = unbackdoor.load_images(f"parquet:{args.data_root}/cifar10", side=clip.frame, split="train")
    attacks = [Attack(parse_trigger(t), target_index(train.classes, name), name) for t, name in PAIRS[name]]
    if (folder / "model").exists():
        return unbackdoor.load(f"local-dir:{folder / 'model'}"), train, attacks
    attacker = train.subset(shares(len(train), args.attacker, *DEFENDER)[0])
    config = PoisonConfig(0.1, tune=TuneConfig(epochs=3, lr=1e-3, seed=args.seed))
    (folder / ".work").mkdir(parents=True, exist_ok=True)
    head, checkpoint = clip.zero_shot_head(train.classes), folder / ".work" / "plant.checkpoint"
    plant(clip, twice_poisoned(attacker, attacks, config), head, None, config, checkpoint=checkpoint, run_key=name)
    clip.save(folder / "model")
    return clip, train, attacks


def trial(name: str, args: argparse.Namespace) -> dict[str, Any]:
    clip, train, attacks = suspect(name, args.out / name, args)
    test = unbackdoor.load_images(
        f"parquet:{args.data_root}/cifar10", side=clip.frame, split="test", limit=args.test_limit
    )
    _, clean, choice = (train.subset(rows) for rows in shares(len(train), args.attacker, *DEFENDER))
    head = clip.zero_shot_head(train.classes)
    result: dict[str, Any] = {
        "attacks": [a.trigger.spec() for a in attacks],
        "suspect": measure(clip, test, head, attacks),
    }
    for method in ("anchored", "tbar"):
        cured = [clip.clone() for _ in attacks]
        for i, attack in enumerate(attacks):
            data = Defender(clean, choice, head, trigger=attack.trigger, target=attack.target)
            cure = defense(method).defend(cured[i], data, defense_config(method, {"seed": args.seed}), Work())
            result[f"{method}, {i + 1} removed"] = {
                **measure(cured[i], test, head, attacks),
                "alpha": cure.facts["alpha"],
            }
        # The second vector, taken from the model that the first has left.
        data = Defender(clean, choice, head, trigger=attacks[1].trigger, target=attacks[1].target)
        cure = defense(method).defend(cured[0], data, defense_config(method, {"seed": args.seed}), Work())
        result[f"{method}, both removed"] = {**measure(cured[0], test, head, attacks), "alpha": cure.facts["alpha"]}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--attacker", type=int, default=12000)
    parser.add_argument("--test-limit", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    manifest = Manifest("two backdoors", {k: str(v) for k, v in vars(args).items() if k not in ("data_root", "out")})
    found: dict[str, Any] = {}
    print("| backdoors | state | CA | ASR of 1 | ASR of 2 | α |\n| --- | --- | --- | --- | --- | --- |")
    for name in PAIRS:
        path = args.out / name / "result.json"
        found[name] = json.loads(path.read_text()) if path.exists() else trial(name, args)
        write_json(path, found[name])
        for state, row in found[name].items():
            if state != "attacks":
                cells = [row["ca"], *row["asr"]]
                texts = [f"{c['value']:.1%} [{c['interval'][0]:.1%}, {c['interval'][1]:.1%}] n={c['n']}" for c in cells]
                print(f"| {name} | {state} | {' | '.join(texts)} | {row.get('alpha', '–')} |", flush=True)
    manifest.write(args.out)


if __name__ == "__main__":
    main()
