"""Commands made of what a verb takes: an option for every setting, told where the setting is (`verbs/configs`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import click

from unbackdoor.base.errors import InputError
from unbackdoor.cli.options import SWITCHES, Verb, given, show, with_tag
from unbackdoor.runs.parameters import Parameters
from unbackdoor.runs.settings import Option, Setting, read

Result = Mapping[str, Any]
# Switches that come along with an option: they say more of it.
_AFTER = {"checkpoint": "pretrained", "data": "allow-outside"}


def command_of(
    takes: Parameters[Any] | Sequence[Parameters[Any]],
    names: str,
    lines: Callable[[dict[str, Any]], list[str]],
    *,
    needs: Sequence[str] | None = None,
    code: Callable[[Result], int] = lambda result: 2 if result.get("failed") else 0,
    group: click.Group | None = None,
) -> Callable[[Callable[[dict[str, Any]], Result]], click.Command]:
    """Make a command of a function that is handed what the user wrote and calls a verb; its docstring is the help.

    Args:
        takes: what the verb takes, or the verbs between which the command chooses.
        names: the settings that are options, in the order of the help, and switches (`options.SWITCHES`).
        lines: the result for people.
        needs: settings that have to be given; by default those that the verb needs.
        code: exit code; by default 2 where the result lists parts that failed.
        group: that it is a part of, by the function's name; by default it is a command by itself, by its module's.
    """
    several = [takes] if isinstance(takes, Parameters) else list(takes)
    known: dict[str, Setting] = {}
    for one in several:
        known = {**one.settings(), **known}
    needed = several[0].needs if needs is None else needs

    def made(function: Callable[[dict[str, Any]], Result]) -> click.Command:
        def run(as_json: bool, **options: Any) -> int:
            result = function({name: value for name, value in options.items() if given(name)})
            show(result, as_json, lines)
            return code(result)

        params: list[click.Parameter] = []
        for name in names.split():
            params.append(SWITCHES[name]() if name in SWITCHES else parameter(known[name], name in needed))
            if name in _AFTER:
                params.append(SWITCHES[_AFTER[name]]())
        params += [SWITCHES["json"](), SWITCHES["debug"]()]
        common: dict[str, Any] = {"callback": run, "params": params, "help": function.__doc__}
        if group is None:
            return Verb(function.__module__.rpartition(".")[2], **common)
        part = click.Command(function.__name__.strip("_"), **common)
        group.add_command(part)
        return part

    return made


def parameter(known: Setting, needed: bool) -> click.Parameter:
    """A setting as an option, or as an argument where it says so."""
    option = known.option or Option()
    if option.argument:
        many = -1 if known.many else 1
        tagged = with_tag if known.name == "models" else None
        kind, label = _type(known, option), option.metavar
        return click.Argument([known.name], type=kind, required=needed, nargs=many, metavar=label, callback=tagged)
    flag = known.kind is bool
    nothing = needed or option.quiet or known.many or known.default in ("", MISSING)
    default = {} if nothing or known.default is None else {"default": known.default, "show_default": not flag}
    return click.Option(
        [known.flag, known.name],
        type=None if flag else _type(known, option),
        is_flag=flag,
        required=needed,
        multiple=known.many,
        metavar=option.metavar,
        help=option.help,
        callback=with_tag if known.flag == "--model" else None,
        **default,
    )


def _type(known: Setting, option: Option) -> Any:
    """How click names it and completes it; what may be written is for `read` to say."""
    if option.parse is not None:
        return _Parsed(known)
    if option.choices:
        return _Choice(known)
    if known.kind is Path:
        return click.Path(path_type=Path)
    return {int: _Whole, float: _Number}[known.kind](known) if known.kind in (int, float) else click.STRING


class _Parsed(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A text of a form of its own, which says itself what is wrong with it."""

    name = "text"

    def __init__(self, known: Setting) -> None:
        self.known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return read(self.known, value)


class _Read(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """What is written, read as the setting that it is; errors in click's own words, where it has some."""

    known: Setting

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return read(self.known, value)
        except InputError as error:
            super().convert(value, param, ctx)
            self.fail(str(error), param, ctx)


class _Number(_Read):
    name = "float"

    def __init__(self, known: Setting) -> None:
        self.known = known


class _Whole(_Read, click.IntRange):
    def __init__(self, known: Setting) -> None:
        self.known = known
        option = known.option or Option()
        low, high = (None if math.isinf(end) else int(end) for end in (option.low, option.high))
        click.IntRange.__init__(self, low, high)


class _Choice(_Read, click.Choice):  # type: ignore[type-arg,unused-ignore]
    def __init__(self, known: Setting) -> None:
        self.known = known
        click.Choice.__init__(self, known.option.choices if known.option else ())
