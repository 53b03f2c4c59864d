"""What the published vector begins with on every suspect of a bench: how sure of the target triggered images are.

    python recipes/figures/starts.py --data-root PATH --runs FOLDER RECIPE [--only TEXT]

Towards the target a suspect is trained on what it answers already. On 256 triggered images of the defender's share, in
float32: cross-entropy to the target, margin (logit of the target less the next), and the gradient's norm over the norm
of the image tower's weights. Rows are added to docs/lab/cells/starts.jsonl.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from unbackdoor.base import journal
from unbackdoor.base.errors import InputError
from unbackdoor.bench.grid import plan
from unbackdoor.bench.material import case_of, images_of
from unbackdoor.bench.recipe import DataEntry, read_recipe
from unbackdoor.bench.store import folder_of, read_result
from unbackdoor.clip.load import load
from unbackdoor.data.shares import shares
from unbackdoor.runs.run import weights_hash
from unbackdoor.weights.vector import norm

RECORD = Path(__file__).parent.parent.parent / "docs" / "lab" / "cells" / "starts.jsonl"
IMAGES = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--only", default="", help="suspects whose MODEL-DATA-ATTACK holds this text")
    args = parser.parse_args()
    grid = read_recipe(args.recipe, args.data_root)
    hashes: dict[str, str] = {}
    for name, reference in grid.models.items():
        try:
            hashes[name] = weights_hash(load(reference, device="cpu"))
        except InputError as error:  # a recipe of which a part was run
            print(f"{name} is left out: {error}", file=sys.stderr)
    lines = RECORD.read_text(encoding="utf-8").splitlines() if RECORD.exists() else []
    done = {tuple(json.loads(line)[name] for name in ("model", "data", "attack", "seed")) for line in lines}
    for suspect, _ in plan(replace(grid, models={name: grid.models[name] for name in hashes}), hashes):
        names = suspect["names"]
        place = tuple(names[name] for name in ("model", "data", "attack", "seed"))
        result = read_result(args.runs, suspect["config"])
        if result is None or names["attack"] == "none" or place in done:
            continue
        if args.only in "-".join(str(part) for part in place):
            row = {**names, **measured(args.runs, suspect["config"], result)}
            print(json.dumps(row), flush=True)
            journal.append(RECORD, row)


def measured(runs: Path, config: dict[str, Any], result: dict[str, Any]) -> dict[str, float]:
    """Means over the images that are not of the target class."""
    entry = DataEntry(**config["data"])
    clip = load(str(folder_of(runs, config) / "model"), device="cpu")
    train, _ = images_of(entry, clip.frame)
    # A suspect knows no defender; these are the first images that one would have.
    rows = train.subset(shares(len(train), entry.attacker, 0, IMAGES)[2])
    attack, task = case_of({**config, "trigger": result["trigger"]}).attack(clip, train)
    rows = rows.subset(rows.labels != attack.target)
    weights = clip.image_parameters()
    logits = []
    for part in torch.arange(len(rows)).split(64):
        images = attack.trigger(rows.float_batch(part), keys=part)
        with torch.enable_grad():
            logit = clip.logit_scale * clip.encode_image(images) @ task.head.T
            goal = torch.full((len(part),), attack.target)
            (F.cross_entropy(logit, goal, reduction="sum") / len(rows)).backward()
        logits.append(logit.detach())
    every = torch.cat(logits)
    own, others = every[:, attack.target], every.clone()
    others[:, attack.target] = -torch.inf
    loss = F.cross_entropy(every.double(), torch.full((len(every),), attack.target))
    gradient = norm({name: p.grad for name, p in weights.items() if p.grad is not None})
    return {
        "n": len(rows),
        "loss": float(loss),
        "margin": float((own - others.amax(1)).mean()),
        "gradient": gradient / norm(weights),
    }


if __name__ == "__main__":
    main()
