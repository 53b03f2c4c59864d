"""Draw the sweeps: forget set, learning rate and poison rate from `bench`'s results, α from recipes/trials/alpha.py of
commit 72aeb55.

python recipes/figures/sweeps.py results.jsonl [results.jsonl …] [--alpha alpha.jsonl] --out docs/lab/pictures
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Row = dict[str, Any]
COLOURS = {"anchored": "#0b6e4f", "tbar": "#c1121f"}


def read(paths: list[Path]) -> list[Row]:
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


def draw(axes: Any, rows: list[Row], x: Callable[[Row], float], label: str, colour: str) -> None:
    """CA solid, ASR dashed, each with its 95% Wilson interval."""
    rows = sorted(rows, key=x)
    for key, style in (("ca", "-o"), ("asr", "--s")):
        rates = [row.get("after", row)[key] for row in rows]
        middle = [100 * r["value"] for r in rates]
        low = [100 * (r["value"] - r["interval"][0]) for r in rates]
        high = [100 * (r["interval"][1] - r["value"]) for r in rates]
        name = f"{label}, {key.upper()}"
        axes.errorbar([x(r) for r in rows], middle, [low, high], fmt=style, ms=3, lw=1.2, color=colour, label=name)


def figure(path: Path, title: str, label: str, log: bool, paint: Callable[[Any], None]) -> None:
    fig, axes = plt.subplots(figsize=(6.4, 3.8))
    paint(axes)
    axes.set(title=title, xlabel=label, ylabel="%", ylim=(-2, 102))
    if log:
        axes.set_xscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncol=2)
    fig.tight_layout()
    fig.savefig(path, metadata={"Date": None})
    plt.close(fig)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--alpha", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    plt.rcParams["svg.hashsalt"] = "unbackdoor"  # the same figures give the same file
    rows = read(args.results)
    cures = [r for r in rows if r["kind"] == "cure"]
    for letter, title, label in (("n", "size of the forget set", "triggered images"), ("lr", "learning rate", "rate")):
        found = [r for r in cures if re.search(rf"-{letter}[0-9]", r["defence"])]

        def value(row: Row, letter: str = letter) -> float:
            return float(re.split(rf"-{letter}(?=[0-9])", row["defence"])[1])

        def paint(axes: Any, found: list[Row] = found, value: Callable[[Row], float] = value) -> None:
            for method, colour in COLOURS.items():
                draw(axes, [r for r in found if r["defence"].startswith(method)], value, method, colour)

        if found:
            figure(args.out / f"sweep-{letter}.svg", f"CIFAR-10, BadNets: {title}", label, True, paint)
    rates = [r for r in rows if r["attack"].endswith("%")]

    def rate(row: Row) -> float:
        return float(row["attack"].rpartition("-")[2].rstrip("%"))

    def by_rate(axes: Any) -> None:
        draw(axes, [r for r in rates if r["kind"] == "suspect"], rate, "suspect", "#444444")
        for method, colour in COLOURS.items():
            draw(axes, [r for r in rates if r.get("defence") == method], rate, method, colour)

    if rates:
        figure(args.out / "sweep-poison-rate.svg", "CIFAR-10, BadNets: poison rate", "% poisoned", True, by_rate)
    if args.alpha:
        points = read([args.alpha])
        for method in COLOURS:
            lrs = sorted({p["lr"] for p in points if p["method"] == method})

            def along(axes: Any, method: str = method, lrs: list[float] = lrs) -> None:
                for lr, colour in zip(lrs, ("#1d4e89", "#0b6e4f", "#c1121f", "#e09f3e"), strict=False):
                    own = [p for p in points if p["method"] == method and p["lr"] == lr]
                    draw(axes, own, lambda p: float(p["alpha"]), f"{lr:g}", colour)

            figure(args.out / f"sweep-alpha-{method}.svg", f"CIFAR-10, BadNets: α, {method}", "α", False, along)


if __name__ == "__main__":
    main()
