"""CA and ASR along α, for both ways of taking the vector at several learning rates, on test images.

    python recipes/trials/alpha.py --data-root PATH --suspect RUNS/suspects/ADDRESS/model --out FOLDER

The suspect is one of `bench`'s, CIFAR-10 with BadNets (recipes/bench/core.yaml). Writes `alpha.jsonl`; draw it with
recipes/figures/sweeps.py. These test figures choose nothing: they show what a choice of α has to choose from.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import unbackdoor
from unbackdoor.data.poisoning import target_index
from unbackdoor.data.shares import shares
from unbackdoor.defenses import defense_config
from unbackdoor.evaluation import Task, evaluate_images
from unbackdoor.manifest import Manifest, write_jsonl
from unbackdoor.triggers import parse_trigger
from unbackdoor.unlearning.vector import Known, trigger_vector
from unbackdoor.weights.vector import Walk, norm

ALPHAS = (0, 0.25, 0.5, 1, 1.5, 2, 3, 4, 5, 6, 8, 10, 12, 16)
RATES = {"anchored": (3e-5, 1e-4, 3e-4), "tbar": (1e-5, 3e-5, 1e-4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--suspect", required=True)
    parser.add_argument("--trigger", default="badnets:size=6,position=bottom-right,pattern=checker")
    parser.add_argument("--target", default="airplane")
    parser.add_argument("--attacker", type=int, default=12000)
    parser.add_argument("--test-limit", type=int, default=1000)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    settings = {k: str(v) for k, v in vars(args).items() if k not in ("data_root", "out", "suspect")}
    manifest = Manifest("alpha", settings)
    clip = unbackdoor.load(args.suspect)
    spec = f"parquet:{args.data_root}/cifar10"
    train = unbackdoor.load_images(spec, side=clip.frame, split="train")
    test = unbackdoor.load_images(spec, side=clip.frame, split="test", limit=args.test_limit)
    clean = train.subset(shares(len(train), args.attacker, 4096, 512)[1])
    head, trigger = clip.zero_shot_head(train.classes), parse_trigger(args.trigger)
    target = target_index(train.classes, args.target)
    rows = []
    for method, rates in RATES.items():
        for lr in rates:
            taken = trigger_vector(clip, Known(clean, trigger, target, head), defense_config(method, {"lr": lr}))
            walk = Walk(clip.state(), taken.vector)
            for alpha in ALPHAS:
                walk.to(alpha)
                found = evaluate_images(clip, test, Task(head, trigger, target)).as_dict()
                rows.append({"method": method, "lr": lr, "alpha": alpha, "norm": norm(taken.vector), **found})
                print(json.dumps(rows[-1]), flush=True)
                # Once most of the model is gone, larger steps show nothing more.
                if found["ca"]["value"] < 0.2:
                    break
            walk.settle(0.0)
    write_jsonl(args.out / "alpha.jsonl", rows)
    manifest.write(args.out)


if __name__ == "__main__":
    main()
