"""Draw the sweeps over forget set, learning rate and poison rate from the recorded cells, docs/lab/cells/*.csv.

python recipes/figures/sweeps.py [--out docs/lab/pictures]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import record

from unbackdoor.base.disk import write_text
from unbackdoor.report.charts import COLORS, Line, Point, line_chart

Row = dict[str, Any]
ROOT = Path(__file__).parent.parent.parent
METHODS = {"anchored": COLORS[2], "tbar": COLORS[1]}
SUSPECT = COLORS[5]


def pair(name: str, color: str, rows: Iterable[Row], x: Callable[[Row], float]) -> list[Line]:
    """CA solid, ASR dashed, each with its 95% Wilson interval."""
    rows = sorted(rows, key=x)
    lines = []
    for key in ("ca", "asr"):
        points = []
        for row in rows:
            rate = row["after"][key]
            low, high = rate["interval"]
            note = f"{name}, {key.upper()} at {x(row):g}: {100 * rate['value']:.1f}% of {rate['n']}"
            points.append(Point(x(row), 100 * rate["value"], (100 * low, 100 * high), note))
        lines.append(Line(f"{name}, {key.upper()}", points, color, dashed=key == "asr"))
    return lines


def _number(start: str, row: Row) -> float:
    return float(row["defence"].removeprefix(start))


def over_setting(rows: list[Row], letter: str, title: str, label: str) -> str:
    """Of cures named METHOD-LETTERvalue."""
    lines = []
    for method, color in METHODS.items():
        start = f"{method}-{letter}"
        own = [r for r in rows if r["defence"].startswith(start) and r["defence"][len(start)].isdigit()]
        lines += pair(method, color, own, partial(_number, start))
    return line_chart(f"CIFAR-10, BadNets: {title}", lines, label, log=True)


def over_poison(rows: list[Row]) -> str:
    """Of attacks named ATTACK-share%."""

    def share(row: Row) -> float:
        return float(row["attack"].rpartition("-")[2].rstrip("%"))

    poisoned = [r for r in rows if r["attack"].endswith("%")]
    lines = pair("suspect", SUSPECT, (r for r in poisoned if r["kind"] == "suspect"), share)
    for method, color in METHODS.items():
        lines += pair(method, color, (r for r in poisoned if r["defence"] == method), share)
    return line_chart("CIFAR-10, BadNets: poison rate", lines, "training images that are poisoned (%)", log=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs/lab/pictures")
    out = parser.parse_args().out
    cells = {
        name: list(record.read(ROOT / f"docs/lab/cells/{name}.csv").values()) for name in ("sweeps", "poison-rates")
    }
    pictures = {
        "n": over_setting(cells["sweeps"], "n", "size of the forget set", "triggered images in the forget set"),
        "lr": over_setting(cells["sweeps"], "lr", "learning rate", "learning rate"),
        "poison-rate": over_poison(cells["poison-rates"]),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        write_text(out / f"sweep-{name}.svg", picture)


if __name__ == "__main__":
    main()
