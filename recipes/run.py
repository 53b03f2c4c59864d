"""Run recipes: poison, then cure by every method, each from one YAML file; print the rows of the results table.

    python recipes/run.py --data-root PATH --out RUNS recipes/known-trigger/*.yaml

All methods cure the same suspect. A recipe whose result exists is not run again; a killed one continues where it
stopped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from unbackdoor import InputError, poison, unlearn
from unbackdoor.unlearning.alpha import AlphaConfig
from unbackdoor.unlearning.vector import METHODS

HEADER = (
    "| recipe | method | CA before | CA after | ASR before | ASR after | triggered accuracy after | retention "
    "| α | n (CA / ASR) | cure s |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def run(path: Path, data_root: Path, out: Path, method: str) -> dict[str, Any]:
    """One recipe: the suspect in `out/NAME/suspect`, the cure in `out/NAME/METHOD`."""
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    folder = out / path.stem
    shared = {k: recipe[k] for k in ("trigger", "target")}
    shared["data"] = recipe["data"].replace("{data}", str(data_root))
    shared["seed"] = recipe.get("seed", 0)
    if not (folder / "suspect" / "result.json").exists():
        poison(model=recipe["model"], out=folder / "suspect", **shared, **recipe.get("poison", {}))
    if not (folder / method / "result.json").exists():
        rule = AlphaConfig(**recipe.get("alpha", {}))
        suspect = str(folder / "suspect")
        unlearn(model=suspect, out=folder / method, method=method, alpha_config=rule, **shared)
    cure: dict[str, Any] = json.loads((folder / method / "result.json").read_text(encoding="utf-8"))
    return cure


def row(name: str, cure: dict[str, Any]) -> str:
    """One line of the table; rates in percent with their 95% Wilson intervals."""

    def cell(when: str, key: str) -> str:
        low, high = cure[when]["interval"][key]
        return f"{cure[when][key] * 100:.1f} [{low * 100:.1f}, {high * 100:.1f}]"

    n = cure["after"]["n"]
    cells = [
        name,
        cure["vector"]["method"],
        cell("before", "ca"),
        cell("after", "ca"),
        cell("before", "asr"),
        cell("after", "asr"),
        cell("after", "triggered_accuracy"),
        f"{cure['retention'] * 100:.1f}",
        f"{cure['alpha']:.3g}" + ("" if cure["chosen"] else " †"),
        f"{n['ca']} / {n['asr']}",
        f"{cure['seconds']:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def summary(method: str, cures: list[dict[str, Any]]) -> str:
    """The method's means over its rows."""

    def mean(values: list[float]) -> float:
        return sum(values) / len(values) * 100

    return (
        f"{method}: mean ASR {mean([c['before']['asr'] for c in cures]):.1f} → "
        f"{mean([c['after']['asr'] for c in cures]):.1f}, "
        f"mean retention {mean([c['retention'] for c in cures]):.1f} over {len(cures)} rows"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipes", nargs="+", type=Path)
    parser.add_argument("--data-root", type=Path, required=True, help="folder that holds cifar10/, gtsrb/, …")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated")
    args = parser.parse_args()
    rows, failed = [], 0
    methods = args.methods.split(",")
    for path, method in itertools.product(args.recipes, methods):
        try:
            cure = run(path, args.data_root, args.out, method)
        except InputError as error:
            failed += 1
            print(f"{path}: {error}", file=sys.stderr)
            continue
        rows.append((path.stem, cure))
        print(row(path.stem, cure), flush=True)
    if rows:
        print(f"\n{HEADER}")
        print("\n".join(row(*r) for r in rows))
        for method in methods:
            own = [cure for _, cure in rows if cure["vector"]["method"] == method]
            print("\n" + summary(method, own) if own else "")
        print("† no α satisfied both limits on the validation images; the best trade-off was taken.")
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
