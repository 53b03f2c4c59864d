"""Maps of the weight disentanglement error, for several triggers and both ways of taking a vector.

    python recipes/trials/maps.py --data-root PATH --out FOLDER

From the embedded model, CIFAR-10: τ_c is a clean fine-tuning, τ_t a trigger vector taken from the same model, ξ over
[−3, 3]² and in the unit box (`unbackdoor disentangle`). Prints a table and writes `result.json` and the maps; what is
there already is kept.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import unbackdoor
from unbackdoor.data.shares import shares
from unbackdoor.manifest import Manifest, write_json
from unbackdoor.training.finetune import TuneConfig
from unbackdoor.training.plant import PoisonConfig, plant

TARGET = "horse"
DEFENDER = (4096, 512)
TRIGGERS = {
    "badnets": "badnets:size=6,pattern=checker",
    "blended": "blended:ratio=0.2",
    "wanet": "wanet:s=0.5",
    "sig": "sig:amplitude=60,frequency=6",
    "stripes": "stripes",
}
METHODS = ("anchored", "tbar")


def clean_model(args: argparse.Namespace) -> Path:
    """The embedded model fine-tuned on the attacker's share without poison, unless it is there."""
    folder = args.out / "clean"
    if not (folder / "model").exists():
        clip = unbackdoor.load("embedded")
        train = unbackdoor.load_images(f"parquet:{args.data_root}/cifar10", side=clip.image_size, split="train")
        attacker = train.subset(shares(len(train), args.attacker, *DEFENDER)[0])
        config = PoisonConfig(0.1, tune=TuneConfig(epochs=3, lr=1e-3, seed=args.seed))
        (folder / ".work").mkdir(parents=True, exist_ok=True)
        head, checkpoint = clip.zero_shot_head(train.classes), folder / ".work" / "clean.checkpoint"
        plant(clip, attacker, head, None, config, checkpoint=checkpoint, run_key="clean")
        clip.save(folder / "model")
    return folder / "model"


def row(trigger: str, method: str, clean: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One map; its folder's `surface.json` where that is there."""
    folder, spec = args.out / f"{trigger}-{method}", f"parquet:{args.data_root}/cifar10"
    common = {"model": "embedded", "data": spec, "trigger": TRIGGERS[trigger], "target": TARGET, "seed": args.seed}
    if not (folder / "surface.json").exists():
        vector = folder / "vector.safetensors"
        if not vector.exists():
            unbackdoor.trigger_vector(method=method, out=vector, **common)
        unbackdoor.disentangle(
            clean=f"local-dir:{clean}", triggered=vector, out=folder, limit=args.limit, points=args.points, **common
        )
    found = json.loads((folder / "surface.json").read_text())
    kept = ("box", "cosine", "norms", "at", "looked_at", "seconds")
    return {"trigger": trigger, "method": method, **{key: found[key] for key in kept}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trigger", action="append", choices=tuple(TRIGGERS), help="all by default")
    parser.add_argument("--attacker", type=int, default=12000)
    parser.add_argument("--limit", type=int, default=256)
    parser.add_argument("--points", type=int, default=21)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    settings = {k: str(v) for k, v in vars(args).items() if k not in ("data_root", "out")}
    manifest = Manifest("maps", settings)
    clean = clean_model(args)
    rows = [row(trigger, method, clean, args) for trigger in args.trigger or TRIGGERS for method in METHODS]
    print("| trigger | vector | ξ over [0, 1]² | cosine of τ_c and τ_t | ξ at (1, 1) | points | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for found in rows:
        box, corner = found["box"], found["at"]["1,1"]["xi"]
        print(
            f"| {found['trigger']} | {found['method']} | {_with(box)} | {found['cosine']:.3f} | {_with(corner)} "
            f"| {found['looked_at']} | {found['seconds']:.0f} |"
        )
    manifest.write(args.out)
    write_json(args.out / "result.json", {"rows": rows})


def _with(part: dict[str, Any]) -> str:
    low, high = part["interval"]
    return f"{part['value']:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
