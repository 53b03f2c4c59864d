"""Maps of the weight disentanglement error ξ: of vectors taken as published, and of suspects that a cure splits in two.

    python recipes/trials/maps.py --data-root PATH --out FOLDER [--runs FOLDER] [--only apart]

`apart`: from the embedded model, CIFAR-10; τ_c is a clean fine-tuning, τ_t the published trigger vector of the same
clean model, for each trigger by itself (TBAR, arXiv 2510.14845, figure 2).

`cured`: a suspect of `unbackdoor bench --out RUNS` (recipes/bench/core.yaml; for pairs of images and captions
pairs.yaml) is its original plus what it learned. A cure splits that in two: τ_t is what it takes away, τ_c the rest, so
that (1, 1) is the suspect and (1, 0) the cured model, and ξ tells how well that split disentangles. Only image towers
are moved; the text tower is the suspect's all over the map.

ξ over [−3, 3]² and in the unit box (`unbackdoor disentangle`). Prints a table and writes `result.json` and the maps;
what is there already is kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from suspects import Suspect, suspects

import unbackdoor
from unbackdoor.bench.cells import images_of
from unbackdoor.bench.recipe import DataEntry
from unbackdoor.data.shares import shares
from unbackdoor.defenses import defense, defense_config
from unbackdoor.defenses.base import Defender
from unbackdoor.manifest import Manifest, write_json
from unbackdoor.training.finetune import TuneConfig
from unbackdoor.training.plant import PoisonConfig, plant
from unbackdoor.weights.vector import difference
from unbackdoor.work import Work

TARGET = "airplane"
ATTACKER, DEFENDER, VALIDATION = 12000, 4096, 512  # as in recipes/bench/core.yaml
TRIGGERS = {
    "badnets": "badnets:size=6,position=bottom-right,pattern=checker",
    "blended": "blended:ratio=0.2",
    "wanet": "wanet:k=0,s=1.0",
    "sig": "sig:amplitude=60,frequency=6",
    "stripes": "stripes:ratio=0.03,width=1",
    "issba": "issba",
    "lowfreq": "lowfreq:amplitude=40,bands=3",
    "nashville": "nashville",
    "triangles": "triangles:ratio=0.15,cell=4",
    "text": "text:word=Watermarked,ratio=0.5",
}
METHODS = ("distilled", "tbar")
SUSPECTS = (("core", ["seed=0", "data=cifar10"]), ("pairs", ["seed=0"]))


def apart(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A map for every trigger, of two vectors that know nothing of one another."""
    clip = unbackdoor.load("embedded", device="cpu")
    entry = DataEntry(f"parquet:{args.data_root}/cifar10", ATTACKER, test_limit=2000)
    train, test = images_of(entry, clip.frame)
    attacker, clean, _ = (train.subset(rows) for rows in shares(len(train), ATTACKER, DEFENDER, VALIDATION))
    folder = args.out / "clean"
    if not (folder / "model").exists():
        tuned, head = clip.clone(), clip.zero_shot_head(train.classes)
        poison = PoisonConfig(0.1, tune=TuneConfig(epochs=3, batch_size=64, lr=1e-3, seed=args.seed))
        (folder / ".work").mkdir(parents=True, exist_ok=True)
        plant(tuned, attacker, head, None, poison, checkpoint=folder / ".work" / "clean.checkpoint", run_key="clean")
        tuned.save(folder / "model")
    for trigger, spec in TRIGGERS.items():
        here = args.out / f"apart-{trigger}"
        if not (here / "surface.json").exists():
            vector = here / "vector.safetensors"
            common = {"model": "embedded", "trigger": spec, "target": TARGET, "seed": args.seed, "device": "cpu"}
            if not vector.exists():
                unbackdoor.trigger_vector(method="tbar", data=clean, out=vector, **common)
            images = _drawn(test, args.limit, args.seed)
            tuned_model = f"local-dir:{folder / 'model'}"
            unbackdoor.disentangle(
                clean=tuned_model, triggered=vector, data=images, out=here, points=args.points, **common
            )
        yield {"kind": "apart", "data": "cifar10", "attack": trigger, "split": "tbar", **_kept(here)}


def cured(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Maps of suspects that a cure takes apart."""
    for recipe, only in SUSPECTS if args.runs is not None else ():
        for names, open_suspect in suspects(recipe, args.data_root, args.runs, only):
            for method in METHODS:
                told = {"data": names["data"] + " (pairs)" * (recipe == "pairs"), "attack": names["attack"]}
                here = args.out / f"{recipe}-{names['attack']}-{method}"
                if not (here / "surface.json").exists():
                    _take_apart(open_suspect(), method, here, args)
                yield {"kind": "cured", **told, "split": method, **_kept(here)}


def _take_apart(suspect: Suspect, method: str, here: Path, args: argparse.Namespace) -> None:
    clip, known = suspect.clip.clone(), suspect.known
    config = defense_config(method)
    config = replace(config, tune=replace(config.tune, seed=args.seed))
    data = Defender(known.forget, suspect.tuning, known.head, trigger=known.trigger, target=known.target)
    defense(method).defend(clip, data, config, Work())
    # The base's image tower beside the suspect's text tower.
    origin, base = suspect.clip.clone(), unbackdoor.load("embedded", device="cpu").image_parameters()
    with torch.no_grad():
        for name, weight in origin.image_parameters().items():
            weight.copy_(base[name])
    unbackdoor.disentangle(
        model=origin,
        clean=difference(clip.image_parameters(), base),
        triggered=difference(suspect.clip.image_parameters(), clip.image_parameters()),
        data=_drawn(suspect.test, args.limit, args.seed),
        trigger=known.trigger,
        target=suspect.test.classes[known.target],
        out=here,
        points=args.points,
        alpha=1.0,
        seed=args.seed,
        device="cpu",
    )


def _drawn(images: Any, limit: int, seed: int) -> Any:
    return images.subset(torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:limit])


def _kept(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "surface.json").read_text(encoding="utf-8"))
    kept = ("box", "cosine", "norms", "at", "looked_at", "seconds")
    return {"name": folder.name, **{key: found[key] for key in kept}}


PARTS = {"apart": apart, "cured": cured}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--runs", type=Path, help="where bench left its suspects; without it, no `cured` maps")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=Path, help="copy the maps there, as map-NAME.svg")
    parser.add_argument("--only", choices=tuple(PARTS), help="both by default")
    parser.add_argument("--limit", type=int, default=128)
    parser.add_argument("--points", type=int, default=21)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    settings = {k: str(v) for k, v in vars(args).items() if k not in ("data_root", "runs", "out", "pictures")}
    manifest = Manifest("maps", settings)
    rows = []
    print(
        "| vectors | data | trigger | ξ over [0, 1]² | of it clean, at (1, 1) | triggered | cosine | points | seconds |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for part in [args.only] if args.only else PARTS:
        for found in PARTS[part](args):
            rows.append(found)
            if args.pictures is not None:
                args.pictures.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(args.out / found["name"] / "map.svg", args.pictures / f"map-{found['name']}.svg")
            corner = found["at"]["1,1"]["xi"]
            print(
                f"| {found['kind']}, {found['split']} | {found['data']} | {found['attack']} | {_with(found['box'])} "
                f"| {_with(corner['clean'])} | {_with(corner['triggered'])} | {found['cosine']:.2f} "
                f"| {found['looked_at']} | {found['seconds']:.0f} |",
                flush=True,
            )
    manifest.write(args.out)
    write_json(args.out / "result.json", {"rows": rows})


def _with(part: dict[str, Any]) -> str:
    low, high = part["interval"]
    return f"{part['value']:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
