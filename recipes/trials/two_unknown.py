"""Two backdoors in one model, of which nothing is known: does a scan find both, and does its cure remove both?

    python recipes/trials/two_unknown.py --data-root PATH --out FOLDER

The suspects of `two_backdoors.py` are scanned, and cured of what was found until a new scan is quiet; the true triggers
are used to measure alone. Prints a table and writes `result.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from two_backdoors import PAIRS, measure, suspect

import unbackdoor
from unbackdoor.manifest import Manifest, write_json


def trial(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Scan, cure round by round, and measure both attacks on what each round leaves."""
    folder, spec = args.out / name, f"parquet:{args.data_root}/cifar10"
    clip, train, attacks = suspect(name, folder, args)
    finding = unbackdoor.scan(model=clip, data=spec, null=args.null, out=folder / "scan", seed=args.seed)
    states = [("suspect", clip, finding)]
    if finding["backdoored"]:
        unbackdoor.unlearn_scan(
            finding=finding,
            model=clip.clone(),
            data=spec,
            out=folder / "cured",
            rounds=args.rounds,
            null=args.null,
            seed=args.seed,
        )
        for here in sorted((folder / "cured").glob("round-*")):
            again = json.loads((here / "scan" / "finding.json").read_text())
            states.append((here.name, unbackdoor.load(f"local-dir:{here / 'model'}"), again))
    test = unbackdoor.load_images(spec, side=clip.frame, split="test", limit=args.test_limit)
    rows = []
    for state, model, found in states:
        rates = measure(model, test, model.zero_shot_head(train.classes), attacks)
        told = {key: found[key] for key in ("backdoored", "p_value", "message")}
        others = [row["target"] for row in found["others"]]
        rows.append({"state": state, **rates, "scan": {**told, "target": found["target"]["name"], "others": others}})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--null", type=Path, help="the shipped one by default")
    parser.add_argument("--pair", choices=tuple(PAIRS), help="both by default")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--attacker", type=int, default=12000)
    parser.add_argument("--test-limit", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    manifest = Manifest("two unknown backdoors", {"rounds": args.rounds, "seed": args.seed})
    result: dict[str, Any] = {}
    print("| backdoors | state | CA | ASR of 1 | ASR of 2 | the scan of it |\n| --- | --- | --- | --- | --- | --- |")
    for name in [args.pair] if args.pair else PAIRS:
        result[name] = trial(name, args)
        for row in result[name]:
            cells = [row["ca"], *row["asr"]]
            texts = [f"{c['value']:.1%} [{c['interval'][0]:.1%}, {c['interval'][1]:.1%}] n={c['n']}" for c in cells]
            said = f"{row['scan']['backdoored']}, p = {row['scan']['p_value']}, {row['scan']['target']}"
            said += "".join(f", also {other}" for other in row["scan"]["others"])
            print(f"| {name} | {row['state']} | {' | '.join(texts)} | {said} |", flush=True)
    write_json(args.out / "result.json", result)
    manifest.write(args.out)


if __name__ == "__main__":
    main()
