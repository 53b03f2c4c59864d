"""Options that several commands share, and how results are printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from unbackdoor.base.devices import is_first_process
from unbackdoor.base.errors import InputError
from unbackdoor.base.printable import terminal
from unbackdoor.base.untrusted import is_there
from unbackdoor.cli.config import check_places, config_option, keep
from unbackdoor.cli.paths import check


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


def given(name: str) -> bool:
    """Whether the user wrote this parameter of the current command, or a config file did."""
    source = click.get_current_context().get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT", "DEFAULT_MAP")


def refuse(names: Sequence[str], why: str) -> None:
    """Refuse options that would do nothing.

    Args:
        names: of the parameters, such as `alpha_grid`.
        why: what they do not go with.

    Raises:
        InputError: one of them was written.
    """
    flags = {param.name: param.opts[0] for param in click.get_current_context().command.params}
    for name in names:
        if given(name):
            raise InputError(f"{flags[name]} does nothing {why}; leave it out")


_TAG = "unbackdoor.pretrained"
_WHOLE = ("local-dir:", "hf-hub:", "adapter:")  # references that bring weights


def with_tag(context: click.Context, option: click.Parameter, value: Any) -> Any:
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


def _keep_tag(context: click.Context, option: click.Parameter, value: str | None) -> None:
    if value:
        context.meta[_TAG] = value


def _show_policy(context: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        from unbackdoor.base.untrusted import read_text
        from unbackdoor.vetting.policy import DEFAULT

        click.echo(read_text(DEFAULT), nl=False)
        context.exit()


def _allow_outside(context: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        from unbackdoor.data.paths import allow_outside

        context.with_resource(allow_outside())


def _switch(flag: str, name: str | None = None, **settings: Any) -> Callable[[], click.Option]:
    names = [flag] if name is None else [flag, name]
    return partial(click.Option, names, expose_value=name is not None, **settings)


# Options that are no setting of a verb, but say something to the command line itself.
SWITCHES: Mapping[str, Callable[[], click.Option]] = {
    "pretrained": _switch(
        "--pretrained",
        metavar="TAG",
        is_eager=True,
        callback=_keep_tag,
        help="Published weights of an OpenCLIP architecture: those in --checkpoint, or to be fetched.",
    ),
    "allow-outside": _switch(
        "--allow-outside",
        is_flag=True,
        callback=_allow_outside,
        help="Tables and Parquet files may name images outside their own folder.",
    ),
    "calibrate": _switch(
        "--calibrate", "calibrate", is_flag=True, help="The models are clean: write what they score to --null."
    ),
    "show-policy": _switch(
        "--show-policy", is_flag=True, is_eager=True, callback=_show_policy, help="Print the default policy and end."
    ),
    "json": _switch("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."),
    "debug": _switch("--debug", is_flag=True, help="Show a traceback on internal errors."),
}


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
