"""Several ways of doing one thing, timed by turns in one process: forwards in one round, backwards in the next."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping


def options(about: str, **defaults: str | int) -> argparse.Namespace:
    """What the command line says, for a benchmark whose options all have a default."""
    parser = argparse.ArgumentParser(description=about.split("\n")[0])
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    return parser.parse_args()


def race(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each side; least, median and most are printed."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in list(sides)[:: 1 if turn % 2 else -1]:
            began = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - began)
    for name, own in seconds.items():
        print(f"{name}: {min(own):.2f} / {statistics.median(own):.2f} / {max(own):.2f} s")
    return {name: statistics.median(own) for name, own in seconds.items()}
