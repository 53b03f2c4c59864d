"""Where a backdoor lives: `unbackdoor locate` on suspects of several architectures, as tables.

    python recipes/trials/where.py --data-root PATH --out FOLDER [--runs FOLDER] [--towers FOLDER] [--maps FOLDER]

Suspects are those of `unbackdoor bench recipes/bench/core.yaml --out RUNS` (CIFAR-10, seed 0; the embedded model, a
timm ResNet under an attention pool) and of `recipes/trials/towers.py --out TOWERS` (BadNets; a ViT, the like as Hugging
Face's CLIPModel, CLIP's ResNet). Of each the default's and the published vector are taken, and blocks are subtracted at
the α that the cure chooses. `--maps` gives the folder of `recipes/trials/maps.py`, whose vectors of ten triggers and of
a clean fine-tuning all start at one model, for their cosines. What is there already is kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import towers
from suspects import suspects

import unbackdoor
from unbackdoor import load_images
from unbackdoor.manifest import Manifest, write_json
from unbackdoor.weights.blocks import cosine
from unbackdoor.weights.vector import difference, load_vector

METHODS = ("distilled", "tbar")


def located(name: str, args: argparse.Namespace, **given: Any) -> Iterator[dict[str, Any]]:
    """`location.json` by both vectors, with the α of their cure; `given` is what the verbs take alike."""
    test = given.pop("test")
    for method in METHODS:
        folder = args.out / f"{name}-{method}"
        if not (folder / "location.json").exists():
            cure = unbackdoor.unlearn(out=folder / "cure", method=method, test=test, test_limit=args.limit, **given)
            unbackdoor.locate(
                vector=folder / "cure" / "vector.safetensors",
                alpha=cure["alpha"],
                out=folder,
                limit=args.limit,
                **(given | {"data": test}),
            )
        found = json.loads((folder / "location.json").read_text(encoding="utf-8"))
        yield {"suspect": name, "method": method, **{k: found[k] for k in ("blocks", "path", "alpha", "norm")}}


def found(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every suspect that is there, located."""
    for names, open_suspect in (
        suspects("core", args.data_root, args.runs, ["seed=0", "data=cifar10"]) if args.runs is not None else ()
    ):
        if args.attack and names["attack"] not in args.attack:
            continue
        suspect = open_suspect()
        target = suspect.test.classes[suspect.known.target]
        given = {
            "model": str(suspect.folder),
            "data": suspect.clean,
            "trigger": suspect.known.trigger,
            "target": target,
        }
        yield from located(f"embedded-{names['attack']}", args, test=suspect.test, **given)
    for tower in towers.TOWERS if args.towers is not None else ():
        folder = args.towers / tower / "badnets" / "suspect"
        if folder.exists():
            data, test = (load_images("embedded:scenes", side=64, split=split) for split in ("train", "test"))
            given = {"model": str(folder), "trigger": towers.ATTACKS["badnets"], "target": towers.TARGET}
            yield from located(f"{tower}-badnets", args, data=data, test=test, **given)


def cosines(folder: Path) -> dict[str, dict[str, float | None]]:
    """Of the published vectors of one clean model, by trigger, and of its clean fine-tuning."""
    base = unbackdoor.load("embedded", device="cpu").image_parameters()
    tuned = unbackdoor.load(f"local-dir:{folder / 'clean' / 'model'}", device="cpu").image_parameters()
    vectors = {"clean": difference(tuned, base)}
    for path in sorted(folder.glob("apart-*/vector.safetensors")):
        vectors[path.parent.name.removeprefix("apart-")] = load_vector(path)[0]
    return {a: {b: cosine(vectors[a], vectors[b]) for b in vectors} for a in vectors}


def table(row: dict[str, Any]) -> list[str]:
    """One suspect's blocks."""
    lines = [
        f"{row['suspect']}, {row['method']}, α = {row['alpha']:.3g}: "
        + ", ".join(f"{p['alpha']:.2g}: CA {_at(p['ca'])} ASR {_at(p['asr'])}" for p in row["path"][::4]),
        "",
        "| block | share of ‖τ‖² | of the weights | effective rank, mean | alone: CA | ASR | all but it: CA | ASR |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    whole = sum(block["elements"] for block in row["blocks"])
    for block in row["blocks"]:
        ranks = list(block["ranks"].values())
        effective = sum(r["effective"] for r in ranks) / len(ranks) if ranks else None
        rank = "–" if effective is None else f"{effective:.0f} of {sum(r['full'] for r in ranks) / len(ranks):.0f}"
        rates = [_at(block[when][rate]) for when in ("alone", "without") for rate in ("ca", "asr")]
        lines.append(
            f"| `{block['block']}` | {100 * block['share']:.1f}% | {100 * block['elements'] / whole:.1f}% | {rank} | "
            + " | ".join(rates)
            + " |"
        )
    return [*lines, ""]


def _at(rate: dict[str, Any]) -> str:
    low, high = rate["interval"]
    return f"{100 * rate['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--towers", type=Path)
    parser.add_argument("--maps", type=Path)
    parser.add_argument("--attack", action="append", help="of the core grid; all by default")
    parser.add_argument("--limit", type=int, default=512)
    args = parser.parse_args()
    manifest = Manifest("where", {"limit": args.limit, "attacks": args.attack})
    rows = []
    for row in found(args):
        rows.append(row)
        print("\n".join(table(row)), flush=True)
    result: dict[str, Any] = {"rows": rows}
    if args.maps is not None:
        result["cosines"] = among = cosines(args.maps)
        print("| | " + " | ".join(among) + " |\n|" + " --- |" * (len(among) + 1))
        for name, row in among.items():
            print(f"| {name} | " + " | ".join("–" if v is None else f"{v:.2f}" for v in row.values()) + " |")
    manifest.write(args.out)
    write_json(args.out / "result.json", result)


if __name__ == "__main__":
    main()
