"""Options that several commands share, and how results are printed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from unbackdoor.cli.config import check_places, config_option, keep
from unbackdoor.cli.paths import check
from unbackdoor.devices import is_first_process
from unbackdoor.errors import InputError
from unbackdoor.printable import terminal
from unbackdoor.untrusted import is_there

F = TypeVar("F", bound=Callable[..., Any])
SEED = 2**40  # see `draws.check_seed`, which loads torch


class Verb(click.Command):
    """A command that looks at the files and folders it is given before it imports anything heavy.

    Its options may come from a file (`cli/config.py`); one that repeats the run is left with what it wrote.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        at = next((i for i, param in enumerate(self.params) if param.name == "as_json"), len(self.params))
        self.params.insert(at, config_option())

    def invoke(self, ctx: click.Context) -> Any:
        check_places(ctx)
        check({**ctx.params, **({"out_is_file": True} if self.name == "vector" else {})})
        code = super().invoke(ctx)
        keep(ctx)
        return code


class Number(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A finite number between two ends."""

    name = "float"

    def __init__(self, low: float = -math.inf, high: float = math.inf, *, above: bool = False, below: bool = False):
        self._low, self._high, self._above, self._below = low, high, above, below

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            found = float(value)
        except (TypeError, ValueError):
            self.fail(f"{value!r} is no number", param, ctx)
        inside = (self._low < found if self._above else self._low <= found) and (
            found < self._high if self._below else found <= self._high
        )
        if not math.isfinite(found) or not inside:
            left, right = "(" if self._above else "[", ")" if self._below else "]"
            ends = f"{left}{self._low:g}, {self._high:g}{right}"
            wanted = "a finite number" if math.isinf(self._low) and math.isinf(self._high) else f"a number in {ends}"
            self.fail(f"{value!r} is not {wanted}", param, ctx)
        return found


RATE = Number(0, 1, above=True, below=True)


def given(name: str) -> bool:
    """Whether the user wrote this parameter of the current command, or a config file did."""
    source = click.get_current_context().get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT", "DEFAULT_MAP")


def refuse(names: Mapping[str, str], why: str) -> None:
    """Refuse options that would do nothing.

    Args:
        names: options by the parameter's name, such as `{"alpha_grid": "--alpha-grid"}`.
        why: what they do not go with.

    Raises:
        InputError: one of them was written.
    """
    for name, option in names.items():
        if given(name):
            raise InputError(f"{option} does nothing {why}; leave it out")


_FILE = click.Path(path_type=Path)
_TAG = "unbackdoor.pretrained"
_WHOLE = ("local-dir:", "hf-hub:", "adapter:")  # references that bring weights


def _with_tag(context: click.Context, option: click.Parameter, value: Any) -> Any:
    """`--model NAME --pretrained TAG` is `--model NAME:TAG`."""
    tag = context.meta.get(_TAG)
    if tag is None:
        return value
    names = value if isinstance(value, tuple) else (value,) if value else ()
    if not names:
        raise click.UsageError("--pretrained TAG needs --model ARCHITECTURE")
    for name in names:
        if name == "embedded" or name.startswith(_WHOLE) or is_there(Path(name)):
            raise click.UsageError(f"{name} brings its own weights; leave --pretrained {tag} out")
    tagged = tuple(f"{name}:{tag}" for name in names)
    return tagged if isinstance(value, tuple) else tagged[0]


def model_option(*names: str, **settings: Any) -> Callable[[F], F]:
    """`--model`, which `--pretrained` adds to."""
    return click.option("--model", *names, callback=_with_tag, **settings)


def _pretrained(function: F) -> F:
    return click.option(
        "--pretrained",
        metavar="TAG",
        is_eager=True,
        expose_value=False,
        callback=lambda context, _, value: context.meta.update({_TAG: value} if value else {}),
        help="Published weights of an OpenCLIP architecture: those in --checkpoint, or to be fetched.",
    )(function)


def _allow_outside(context: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        from unbackdoor.data.paths import allow_outside

        context.with_resource(allow_outside())


def allow_outside_option(function: F) -> F:
    """`--allow-outside`, which holds for the whole command."""
    return click.option(
        "--allow-outside",
        is_flag=True,
        expose_value=False,
        callback=_allow_outside,
        help="Tables and Parquet files may name images outside their own folder.",
    )(function)


_SHARED: dict[str, Callable[[F], F]] = {
    "model": model_option(required=True, help="Model reference or output folder of poison/unlearn."),
    "checkpoint": lambda function: click.option(
        "--checkpoint", type=_FILE, help="Weights for an OpenCLIP architecture name."
    )(_pretrained(function)),
    "data": lambda function: click.option(
        "--data", required=True, help="Data source, such as embedded:scenes or parquet:PATH."
    )(allow_outside_option(function)),
    "trigger": click.option(
        "--trigger", required=True, help="Trigger spec, such as badnets:size=16, or @FILE that holds one."
    ),
    "target": click.option("--target", required=True, help="Name of the class that the attacker wants."),
    "classes": click.option("--classes", help="Class names: a file, or a standard set such as cifar10."),
    "templates": click.option("--templates", help="Prompt templates: a file, or a name such as openai-imagenet."),
    "device": click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, mps."),
    "seed": click.option("--seed", type=click.IntRange(-SEED, SEED), default=0, show_default=True, metavar="INTEGER"),
    "limit": click.option("--limit", type=click.IntRange(1), help="Use at most so many images, drawn by seed."),
    "test_limit": click.option("--test-limit", type=click.IntRange(1), help="Measure on at most so many images."),
    "lr": click.option(
        "--lr", type=Number(0, above=True), help="Peak learning rate; chosen by the size of the image tower by default."
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


def show(result: Mapping[str, Any], as_json: bool, lines: Callable[[dict[str, Any]], list[str]]) -> None:
    """Print a result: one JSON object, or its lines for people; of several processes the first speaks."""
    if not is_first_process():
        return
    result = dict(result)
    if as_json:
        click.echo(json.dumps(result, allow_nan=False))
    else:
        # What is printed quotes files of strangers: names of classes and tensors, specs, paths.
        click.echo("\n".join(terminal(line) for line in lines(result)))


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
