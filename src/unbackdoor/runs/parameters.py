"""What a verb takes: fields of the case, of its config and of the run, known before anything heavy is imported."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from functools import wraps
from typing import Any, Generic, TypeVar

from unbackdoor.runs.fields import CaseFields, RunFields
from unbackdoor.runs.settings import Setting, checked, settings_of

C = TypeVar("C")
R = TypeVar("R")


@dataclass(frozen=True)
class Parameters(Generic[C]):
    """What a verb takes.

    Args:
        config: the dataclass of its settings.
        needs: fields without which it cannot run.
        takes: further fields of `Case` and `Run` that mean something to it.
        changes: what its fields say otherwise than the dataclasses do: `default`, or a field of `Option`.
    """

    config: type[C]
    needs: Sequence[str]
    takes: Sequence[str] = ()
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def settings(self) -> dict[str, Setting]:
        """By keyword: those that it needs first."""
        own = settings_of(self.config)
        every = {**settings_of(CaseFields), **settings_of(RunFields), **own}
        names = dict.fromkeys([*self.needs, *own, *self.takes])
        return {name: every[name].changed(self.changes.get(name, {})) for name in names}

    def values(self, verb: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Keywords as they were given, checked, and the verb's own defaults.

        Raises:
            TypeError: a keyword that it does not take, or lacks.
            InputError: a value of another type, out of its range or none of the choices.
        """
        settings = self.settings()
        for name in given:
            if name not in settings:
                raise TypeError(f"{verb}() got an unexpected keyword argument {name!r}")
        for name in self.needs:
            if name not in given:
                raise TypeError(f"{verb}() needs the keyword argument {name!r}")
        values = {name: change["default"] for name, change in self.changes.items() if "default" in change}
        for name, value in given.items():
            known = settings[name]
            if value is not None or known.optional or name in self.needs:
                if isinstance(value, str) and known.option is not None and known.option.parse is not None:
                    value = known.option.parse(value)
                values[name] = checked(known, value, name)
        return values

    def signature(self) -> inspect.Signature:
        """For Python's `help`: keywords with their types and defaults."""
        parameters = []
        for name, known in self.settings().items():
            lacks = name in self.needs or known.default is MISSING
            default = inspect.Parameter.empty if lacks else known.default
            parameters.append(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=known.annotation)
            )
        return inspect.Signature(parameters)


def keywords(takes: Parameters[Any]) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Check what a plain function is called with, and hand it the defaults of what it is not."""

    def made(function: Callable[..., R]) -> Callable[..., R]:
        own = inspect.signature(function).parameters.values()
        places = [p.name for p in own if p.kind is p.POSITIONAL_OR_KEYWORD]
        signature = takes.signature()

        @wraps(function)
        def call(*values: Any, **named: Any) -> R:
            if len(values) > len(places):
                raise TypeError(f"{function.__name__}() takes {len(places)} positional arguments")
            given = takes.values(function.__name__, {**dict(zip(places, values, strict=False)), **named})
            left = {name: p.default for name, p in signature.parameters.items() if name not in given}
            return function(**left, **given)

        call.__signature__ = signature  # type: ignore[attr-defined]
        return call

    return made
