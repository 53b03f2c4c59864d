"""Two backdoors in one model, of which nothing is known: does a scan find both, and does its cure remove both?

    python recipes/trials/two_backdoors.py --data-root PATH --out FOLDER
    python recipes/trials/two_unknown.py --data-root PATH --models FOLDER --out OTHER

Each suspect of `two_backdoors.py` is scanned, and cured of what was found until a new scan is quiet; the true triggers
are used to measure alone. Prints a table and writes `result.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from two_backdoors import PAIRS, measure

import unbackdoor
from unbackdoor.data.poisoning import target_index
from unbackdoor.manifest import Manifest, write_json
from unbackdoor.training.plant import Attack
from unbackdoor.triggers import parse_trigger


def trial(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Scan, cure round by round, and measure both attacks on what each round leaves."""
    suspect, folder = f"local-dir:{args.models / name / 'model'}", args.out / name
    spec = f"parquet:{args.data_root}/cifar10"
    finding = unbackdoor.scan(model=suspect, data=spec, null=args.null, out=folder / "scan", seed=args.seed)
    states = [("suspect", suspect, finding)]
    if finding["backdoored"]:
        unbackdoor.unlearn_scan(
            finding=finding, data=spec, out=folder / "cured", rounds=args.rounds, null=args.null, seed=args.seed
        )
        for here in sorted((folder / "cured").glob("round-*")):
            states.append(
                (here.name, f"local-dir:{here / 'model'}", json.loads((here / "scan" / "finding.json").read_text()))
            )
    rows = []
    for state, reference, found in states:
        clip = unbackdoor.load(reference)
        test = unbackdoor.load_images(spec, side=clip.image_size, split="test", limit=args.test_limit)
        attacks = [Attack(parse_trigger(t), target_index(test.classes, to), to) for t, to in PAIRS[name]]
        rates = measure(clip, test, clip.zero_shot_head(test.classes), attacks)
        told = {key: found[key] for key in ("backdoored", "p_value", "message")}
        rows.append({"state": state, **rates, "scan": {**told, "target": found["target"]["name"]}})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True, help="what two_backdoors.py wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--null", type=Path, help="the shipped one by default")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--test-limit", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    manifest = Manifest("two unknown backdoors", {"rounds": args.rounds, "seed": args.seed})
    result: dict[str, Any] = {}
    print("| backdoors | state | CA | ASR of 1 | ASR of 2 | the scan of it |\n| --- | --- | --- | --- | --- | --- |")
    for name in PAIRS:
        result[name] = trial(name, args)
        for row in result[name]:
            cells = [row["ca"], *row["asr"]]
            texts = [f"{c['value']:.1%} [{c['interval'][0]:.1%}, {c['interval'][1]:.1%}] n={c['n']}" for c in cells]
            said = f"{row['scan']['backdoored']}, p = {row['scan']['p_value']}, {row['scan']['target']}"
            print(f"| {name} | {row['state']} | {' | '.join(texts)} | {said} |", flush=True)
    write_json(args.out / "result.json", result)
    manifest.write(args.out)


if __name__ == "__main__":
    main()
