"""`--config FILE`: a command's options from a YAML file, and the file that repeats a run.

What the file says counts as if it were typed. It may name no model or data on the network, no place to write to, and
none of the options that reach further (`--online`, `--allow-outside`, `--pretrained`, `--track`, where `push` goes):
files are handed around, and only what the user types may reach so far.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from unbackdoor.base.errors import InputError
from unbackdoor.base.untrusted import is_there, read_yaml

NAME = "config.yaml"
TYPED = (
    "config",
    "json",
    "debug",
    "help",
    "pretrained",
    "allow-outside",
    "online",
    "out",
    "show-policy",
    "track",
    "repository",
    "public",
)
_MODELS = ("model", "models", "origin", "clean", "triggered")
_DATA = ("data", "test")


def config_option() -> click.Option:
    """`--config`, which is read before any other option."""
    return click.Option(
        ["--config"],
        type=click.Path(path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_read,
        help=f"Options from a YAML file, such as the {NAME} that a run leaves; those given here go first.",
    )


def _named(command: click.Command, context: click.Context) -> dict[str, click.Parameter]:
    """What a file may hold: options by their long name, arguments by their own."""
    params = {}
    for param in command.get_params(context):
        long = [o.removeprefix("--") for o in param.opts if o.startswith("--")]
        params[long[0] if long else str(param.name)] = param
    return {name: param for name, param in params.items() if name not in TYPED}


def _read(context: click.Context, option: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    raw = read_yaml(path)
    known = _named(context.command, context)
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise InputError(f"{path}: holds no options; write lines such as model: embedded")
    values: dict[str, Any] = {}
    for key, value in raw.items():
        name = key.replace("_", "-")
        if name not in known:
            why = "is for the command line alone" if name in TYPED else f"is none; there are {', '.join(known)}"
            raise InputError(f"{path}: the option {key[:60]!r} {why}")
        if value is not None:
            values[str(known[name].name)] = _written(known[name], value, f"{path}: {key[:60]}")
    context.meta[_PLACE] = path
    context.default_map = values


_PLACE = "unbackdoor.config"


def _written(param: click.Parameter, value: Any, where: str) -> Any:
    """A value as it would have been typed, so that it is checked as what is typed is."""
    if isinstance(param, click.Option) and param.is_flag:
        if not isinstance(value, bool):
            raise InputError(f"{where}: is true or false")
        return value
    many = (isinstance(param, click.Option) and param.multiple) or param.nargs == -1
    parts = value if many and isinstance(value, list) else [value]
    if not all(isinstance(part, str | int | float) and not isinstance(part, bool) for part in parts):
        raise InputError(f"{where}: holds something else than {'texts or numbers' if many else 'a text or a number'}")
    texts = [str(part) for part in parts]
    return texts if many else texts[0]


def check_places(context: click.Context) -> None:
    """Refuse models and data of a config file that do not lie on this machine.

    Raises:
        InputError: one does not.
    """
    path = context.meta.get(_PLACE)
    if path is None:
        return
    for name, value in context.params.items():
        if value is None or context.get_parameter_source(name) is not ParameterSource.DEFAULT_MAP:
            continue
        for text in value if isinstance(value, tuple) else (value,):
            if name in _DATA and str(text).startswith("hf:") and not is_there(Path(str(text).removeprefix("hf:"))):
                raise InputError(f"{path}: {name} lies on the network; give it on the command line")
            if name in _MODELS:
                _check_model(str(text), f"{path}: {name}", context.params.get("checkpoint") is not None)


def _check_model(reference: str, where: str, has_weights: bool) -> None:
    from unbackdoor.clip.load import offline

    if not (has_weights and reference.replace("-", "").replace("_", "").replace(".", "").isalnum()):
        offline(reference, where, "give it on the command line")


def keep(context: click.Context) -> None:
    """Write the file that repeats a run: into its folder, or beside its file."""
    import yaml

    from unbackdoor.base.disk import write_text

    out = context.params.get("out")
    if out is None:
        return
    values: dict[str, Any] = {}
    for name, param in _named(context.command, context).items():
        value = context.params.get(str(param.name))
        source = context.get_parameter_source(str(param.name))
        if value is not None and source in (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP):
            values[name] = _plain(value)
    place = Path(out)
    file = place / NAME if place.is_dir() else place.with_name(f"{place.name}.{NAME}")
    write_text(file, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return value if isinstance(value, bool | int | float | str) else str(value)
