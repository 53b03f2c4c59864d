"""Options that several commands share, and how results are printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from unbackdoor.devices import is_first_process

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path)
_SHARED: dict[str, Callable[[F], F]] = {
    "model": click.option("--model", required=True, help="Model reference or output folder of poison/unlearn."),
    "checkpoint": click.option("--checkpoint", type=_FILE, help="Weights for an OpenCLIP architecture name."),
    "data": click.option("--data", required=True, help="Data source, such as embedded:scenes or parquet:PATH."),
    "trigger": click.option(
        "--trigger", required=True, help="Trigger spec, such as badnets:size=16, or @FILE that holds one."
    ),
    "target": click.option("--target", required=True, help="Name of the class that the attacker wants."),
    "classes": click.option("--classes", help="Class names: a file, or a standard set such as cifar10."),
    "templates": click.option("--templates", help="Prompt templates: a file, or a name such as openai-imagenet."),
    "device": click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, mps."),
    "seed": click.option("--seed", type=int, default=0, show_default=True),
    "limit": click.option("--limit", type=click.IntRange(1), help="Use at most so many images, drawn by seed."),
    "test_limit": click.option("--test-limit", type=click.IntRange(1), help="Measure on at most so many images."),
    "lr": click.option(
        "--lr", type=float, help="Peak learning rate; chosen by the size of the image tower by default."
    ),
    "samples": click.option(
        "--samples",
        type=click.IntRange(1),
        help="Triggered images for the vector.  [default: 64 lora and distilled, 256 otherwise and with --scan]",
    ),
    "method": click.option(
        "--method",
        type=click.Choice(["lora", "distilled", "anchored", "tbar"]),
        help="How the vector is taken: triggered images led back to clean ones by an adapter of rank 8 or by the whole "
        "tower, or towards the target, with clean embeddings held in place or as published.  [default: lora, distilled "
        "with --scan]",
    ),
    "json": click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."),
    "debug": click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback on internal errors."),
}


def shared(*names: str) -> Callable[[F], F]:
    """Decorate a command with the named shared options, in that order."""

    def decorate(function: F) -> F:
        for name in reversed(names):
            function = _SHARED[name](function)
        return function

    return decorate


def show(result: dict[str, Any], as_json: bool, lines: Callable[[dict[str, Any]], list[str]]) -> None:
    """Print a result: one JSON object, or its lines for people; of several processes the first speaks."""
    if not is_first_process():
        return
    if as_json:
        click.echo(json.dumps(result, allow_nan=False))
    else:
        click.echo("\n".join(lines(result)))


def rate_line(name: str, value: float | None, n: int, interval: list[float]) -> str:
    """`CA   97.3%  [96.4, 98.0]  n=1440`."""
    if value is None:
        return f"{name:<20} –  (nothing to count)"
    return f"{name:<20} {value:6.1%}  [{interval[0] * 100:.1f}, {interval[1] * 100:.1f}]  n={n}"


RATE_NAMES = {"ca": "clean accuracy", "asr": "attack success", "triggered_accuracy": "triggered accuracy"}


def story_lines(result: dict[str, Any]) -> list[str]:
    """Before and after of poison, unlearn and demo."""
    lines = []
    for when in ("original", "before", "after"):
        if when in result:
            lines.append(f"{when}:")
            part = result[when]
            lines += [
                "  " + rate_line(label, part[key], part["n"][key], part["interval"][key])
                for key, label in RATE_NAMES.items()
                if key in part
            ]
            lines += ["  " + line for line in retrieval_lines(part)]
    return lines


def retrieval_lines(part: dict[str, Any]) -> list[str]:
    """`image to text R@1 …`, for every k both ways; none where retrieval was not measured."""
    return [
        rate_line(f"{way.replace('_', ' ')} {k.upper()}", r["value"], r["n"], r["interval"])
        for way, recalls in part.get("retrieval", {}).items()
        for k, r in recalls.items()
    ]
