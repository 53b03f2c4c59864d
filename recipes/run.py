"""Run recipes: poison, then cure, each from one YAML file; print the rows of the results table.

    python recipes/run.py --data-root PATH --out RUNS recipes/known-trigger/*.yaml

A recipe whose result exists is not run again; a killed one continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from unbackdoor import InputError, poison, unlearn
from unbackdoor.defenses.alpha import AlphaConfig

HEADER = (
    "| data | trigger | CA before | CA after | ASR before | ASR after | triggered accuracy after | retention "
    "| α | n (CA / ASR) | cure s |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def run(path: Path, data_root: Path, out: Path) -> dict[str, Any]:
    """One recipe: the suspect in `out/NAME/suspect`, the cure in `out/NAME/cure`."""
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    folder = out / path.stem
    shared = {k: recipe[k] for k in ("trigger", "target")}
    shared["data"] = recipe["data"].replace("{data}", str(data_root))
    shared["seed"] = recipe.get("seed", 0)
    if not (folder / "suspect" / "result.json").exists():
        poison(model=recipe["model"], out=folder / "suspect", **shared, **recipe.get("poison", {}))
    if not (folder / "cure" / "result.json").exists():
        rule = AlphaConfig(**recipe.get("alpha", {}))
        suspect = str(folder / "suspect")
        unlearn(model=suspect, out=folder / "cure", alpha_config=rule, **shared, **recipe.get("unlearn", {}))
    cure: dict[str, Any] = json.loads((folder / "cure" / "result.json").read_text(encoding="utf-8"))
    return cure


def row(name: str, cure: dict[str, Any]) -> str:
    """One line of the table; rates in percent with their 95% Wilson intervals."""

    def cell(when: str, key: str) -> str:
        low, high = cure[when]["interval"][key]
        return f"{cure[when][key] * 100:.1f} [{low * 100:.1f}, {high * 100:.1f}]"

    data, _, trigger = name.rpartition("-")
    n = cure["after"]["n"]
    cells = [
        data,
        trigger,
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipes", nargs="+", type=Path)
    parser.add_argument("--data-root", type=Path, required=True, help="folder that holds cifar10/, gtsrb/, …")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows, failed = [], 0
    for path in args.recipes:
        try:
            cure = run(path, args.data_root, args.out)
        except InputError as error:
            failed += 1
            print(f"{path}: {error}", file=sys.stderr)
            continue
        rows.append((path.stem, cure))
        print(row(path.stem, cure), flush=True)
    if rows:
        mean = lambda f: sum(f(c) for _, c in rows) / len(rows) * 100  # noqa: E731
        print(f"\n{HEADER}")
        print("\n".join(row(*r) for r in rows))
        print(
            f"\nmean ASR {mean(lambda c: c['before']['asr']):.1f} → {mean(lambda c: c['after']['asr']):.1f}, "
            f"mean retention {mean(lambda c: c['retention']):.1f} over {len(rows)} rows"
        )
        print("† no α satisfied both limits on the validation images; the best trade-off was taken.")
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
