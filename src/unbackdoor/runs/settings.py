"""Settings: fields of frozen dataclasses that say once what they may be, for the three doors to a run.

A field made by `setting` has its type, default, help, choices and range in one place. The command line makes an option
of it (`cli/generate.py`), Python's keywords (`runs/parameters.py`) and the settings of a YAML file (`changed`) are
checked by it, all by `checked`. A field whose value is a dataclass brings the settings of that dataclass along.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import cache
from numbers import Integral, Real
from pathlib import Path, PurePath
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from unbackdoor.base.errors import InputError
from unbackdoor.base.untrusted import as_type

T = TypeVar("T")
_KEY = "option"
LATER = {"later": True}  # metadata of a field that came later: at its default it decides no cell's address


@dataclass(frozen=True)
class Option:
    """What is said of a setting besides its name, type and default.

    Args:
        help: for people, as the command line prints it.
        choices: texts that it may be.
        low, high: ends of the numbers that it may be; `above` and `below` leave the end itself out.
        flag: on the command line, where it is not the setting's name.
        metavar: what stands for a value there.
        argument: stands there without a flag.
        quiet: its default is not printed, as the help tells it or it means "none".
        parse: makes a value of a text, where the type does not say how.
    """

    help: str | None = None
    choices: tuple[str, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    flag: str = ""
    metavar: str | None = None
    argument: bool = False
    quiet: bool = False
    parse: Callable[[str], Any] | None = None


def setting(default: Any = MISSING, help: str | None = None, **more: Any) -> Any:
    """A field of a dataclass that is a setting; `more` are the other fields of `Option`."""
    return field(default=default, metadata={_KEY: Option(help, **more)})


def again(kind: type[Any], name: str, default: Any) -> Any:
    """A dataclass's setting with another default, for a dataclass derived from it."""
    return field(default=default, metadata=next(f.metadata for f in fields(kind) if f.name == name))


class InMemory:
    """Stands for types that are imported for type checking alone: what has no text, such as an open model."""


@dataclass(frozen=True)
class Setting:
    """A setting as it is asked for.

    Args:
        name: keyword.
        default: `MISSING` where there is none.
        hint: type; `annotation` is how it was written.
        option: None where the command line does not offer it.
        place: (field, field of its dataclass), where it belongs to a dataclass within.
    """

    name: str
    default: Any
    hint: Any
    annotation: Any
    option: Option | None = None
    place: tuple[str, str] | None = None

    @property
    def flag(self) -> str:
        """On the command line."""
        return (self.option.flag if self.option else "") or "--" + self.name.replace("_", "-")

    @property
    def many(self) -> bool:
        """Whether it is a sequence of values, which the command line takes one by one."""
        return any(get_origin(part) is Sequence for part in _parts(self.hint))

    @property
    def kind(self) -> Any:
        """What a text becomes: the first of its types."""
        return next(part for part in _parts(_element(self.hint)) if part is not NoneType)

    @property
    def optional(self) -> bool:
        """Whether None is one of its values."""
        return NoneType in _parts(self.hint)

    def changed(self, changes: Mapping[str, Any]) -> Setting:
        """With another default, and other things said of it."""
        more = {name: value for name, value in changes.items() if name != "default"}
        option = replace(self.option or Option(), **more) if more else self.option
        return replace(self, default=changes.get("default", self.default), option=option)


def settings_of(kind: Any) -> Mapping[str, Setting]:
    """The settings of a dataclass by keyword, each with those of the dataclass that it holds."""
    return _settings(kind)


@cache
def _settings(kind: Any) -> Mapping[str, Setting]:
    settings: dict[str, Setting] = {}
    types = _hints(kind)
    for f in fields(kind):
        default = f.default if f.default_factory is MISSING else f.default_factory()
        settings[f.name] = Setting(f.name, default, types[f.name], f.type, f.metadata.get(_KEY))
        if is_dataclass(default) and not isinstance(default, type):
            for inner in settings_of(type(default)).values():
                if inner.option is not None:
                    name = inner.flag.removeprefix("--").replace("-", "_")
                    value = getattr(default, inner.name)
                    settings[name] = replace(inner, name=name, default=value, place=(f.name, inner.name))
    return settings


def built(kind: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass of those values that are its settings."""
    own: dict[str, Any] = {}
    within: dict[str, dict[str, Any]] = {}
    for name, known in settings_of(kind).items():
        if name in values and known.place is None:
            own[name] = values[name]
        elif name in values and known.place is not None:
            within.setdefault(known.place[0], {})[known.place[1]] = values[name]
    for name, parts in within.items():
        held: Any = own.get(name, settings_of(kind)[name].default)
        own[name] = replace(held, **parts)
    return kind(**own)


def read(known: Setting, text: Any) -> Any:
    """The value that a text stands for, or one of several, checked; what is no text is checked as it is.

    Raises:
        InputError: it cannot be one.
    """
    value = text
    if isinstance(text, str):
        parse = known.option.parse if known.option is not None else None
        try:
            value = parse(text) if parse else known.kind(text) if known.kind in (int, float, Path) else text
        except InputError:
            raise
        except ValueError:
            raise InputError(f"{text!r} is no number") from None
    one = replace(known, hint=_element(known.hint)) if known.many else known
    return checked(one, value, written=text)


def checked(known: Setting, value: Any, where: str = "", written: Any = None) -> Any:
    """The value, where it is of the setting's type, one of its choices and within its range.

    It is checked and not converted: that 1 stands for 1.0 must not move the address of a bench's cell.

    Args:
        where: what the error begins with.
        written: as it was written, for the error.

    Raises:
        InputError: it is none.
    """
    _check_type(known.hint, value, where or "value")
    _check_range(known, value, where, written)
    return value


def check_ranges(holder: Any, where: str) -> None:
    """Refuse a dataclass of which a setting is out of its range; types are for those who read to check.

    Raises:
        InputError: the first of them.
    """
    for name, known in settings_of(type(holder)).items():
        if known.place is None:
            _check_range(known, getattr(holder, name), f"{where}, {name}", None)


def changed(where: str, base: T, settings: Mapping[str, Any], within: Sequence[str] = ()) -> T:
    """`base` with the fields named in `settings` replaced, as a YAML file has them: a mapping changes the dataclass
    that a field holds, a list becomes a tuple.

    Args:
        where: what the settings are of, for the error.
        within: fields whose own settings may be named as if they were of `base`.

    Raises:
        InputError: no such setting, or one of another type.
    """
    own = {name: known for name, known in settings_of(type(base)).items() if known.place is None}
    holders = [name for name in within if name in own]
    inner = {name: holder for holder in holders for name in settings_of(type(getattr(base, holder)))}
    unknown = set(settings) - set(own) - set(inner)
    if unknown:
        names = ", ".join(sorted((own.keys() | inner) - set(holders)))
        raise InputError(f"{where}: no setting {sorted(unknown)[0]!r}; it has {names}")
    values: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        if name in own:
            values[name] = _given(f"{where}, {name}", own[name], getattr(base, name), value)
        else:
            parts.setdefault(inner[name], {})[name] = value
    for holder, given in parts.items():
        values[holder] = changed(where, values.get(holder, getattr(base, holder)), given)
    return replace(base, **values)  # type: ignore[type-var]


def _given(where: str, known: Setting, old: Any, value: Any) -> Any:
    if is_dataclass(old) and not isinstance(old, type) and isinstance(value, Mapping):
        return changed(where, old, value)
    checked(known, value, where)
    return tuple(value) if isinstance(value, list) else value


def _check_type(hint: Any, value: Any, where: str) -> None:
    parts = _parts(hint)
    if is_dataclass(value) and any(isinstance(part, type) and isinstance(value, part) for part in parts):
        return
    plain = (str, bool, Real, PurePath, NoneType, list, tuple)
    if InMemory in parts and not isinstance(value, plain):
        return
    if isinstance(value, list | tuple):
        inner = _parts(_element(hint))
        value = [v for v in value if isinstance(v, plain) or InMemory not in inner]
    as_type(_plain_value(value), _plain_type(hint), where)


def _check_range(known: Setting, value: Any, where: str, written: Any) -> None:
    if known.option is not None:
        for part in value if isinstance(value, list | tuple) else (value,):
            _check_one(known, known.option, part, f"{where} {(part if written is None else written)!r}".strip())


def _check_one(known: Setting, option: Option, value: Any, begin: str) -> None:
    if option.choices and isinstance(value, str) and value not in option.choices:
        raise InputError(f"{begin} is none of {', '.join(option.choices)}")
    if not isinstance(value, Real) or isinstance(value, bool):
        return
    number = float(value)
    inside = (option.low < number if option.above else option.low <= number) and (
        number < option.high if option.below else number <= option.high
    )
    if inside and math.isfinite(number):
        return
    if known.kind is int:
        left = "" if math.isinf(option.low) else f"{option.low}<="
        span = f"x>={option.low}" if math.isinf(option.high) else f"{left}x<={option.high}"
        raise InputError(f"{begin} is not in the range {span}")
    left, right = "(" if option.above else "[", ")" if option.below else "]"
    ends = f"a number in {left}{option.low:g}, {option.high:g}{right}"
    endless = math.isinf(option.low) and math.isinf(option.high)
    raise InputError(f"{begin} is not {'a finite number' if endless else ends}")


def _hints(kind: type[Any]) -> dict[str, Any]:
    """Types of the fields; names that are imported for type checking alone stand for what is in memory."""
    foreign: dict[str, Any] = {}
    while True:
        try:
            return get_type_hints(kind, localns=foreign)
        except NameError as error:
            foreign[str(error.name)] = InMemory


def _parts(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _element(hint: Any) -> Any:
    """What a sequence holds; what is none is its own element."""
    return next((get_args(part)[0] for part in _parts(hint) if get_origin(part) is Sequence), hint)


def _plain_type(hint: Any) -> Any:
    """As a file can have it: a path is a text, and what is in memory is left out."""
    if hint is Path:
        return str
    if get_origin(hint) in (Union, UnionType):
        return Union[tuple(_plain_type(part) for part in get_args(hint) if part is not InMemory)]
    return Sequence[_plain_type(get_args(hint)[0])] if get_origin(hint) is Sequence else hint  # type: ignore[misc]


def _plain_value(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain_value(part) for part in value]
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Real) and not isinstance(value, bool):  # NumPy's numbers, too
        return int(value) if isinstance(value, Integral) else float(value)
    return value
