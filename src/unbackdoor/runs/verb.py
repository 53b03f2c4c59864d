"""A verb: one function of (case, config, run), called from Python by keywords."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, Generic, TypeVar

from unbackdoor.runs.case import Case
from unbackdoor.runs.run import Run

C = TypeVar("C")
R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True)
class Verb(Generic[C, R]):
    """What a verb does, and what it takes.

    Args:
        function: does it.
        config: the dataclass of its settings.
        needs: fields without which it cannot run.
        takes: further fields of `Case` and `Run` that mean something to it.
        defaults: of fields of `Case`, where they are the verb's own.
    """

    function: Callable[[Case, C, Run], R]
    config: type[C]
    needs: Sequence[str]
    takes: Sequence[str]
    defaults: Mapping[str, Any]

    def __call__(self, **given: Any) -> R:
        """Run it on keywords, each a field of the case, of the config or of the run.

        Raises:
            TypeError: a keyword that it does not take, or lacks.
            InputError: what it is given cannot be used.
        """
        parameters = self.parameters()
        for name in given:
            if name not in parameters:
                raise TypeError(f"{self.name}() got an unexpected keyword argument {name!r}")
        for name in self.needs:
            if name not in given:
                raise TypeError(f"{self.name}() needs the keyword argument {name!r}")
        values = {**self.defaults, **given}
        return self.function(_of(Case, values), _of(self.config, values), _of(Run, values))

    @property
    def name(self) -> str:
        """As it is called."""
        return self.function.__name__

    def parameters(self) -> dict[str, Field[Any]]:
        """The fields that it takes, by name: those that it needs first."""
        shared = {f.name: f for kind in (Case, Run) for f in fields(kind)}
        own = {f.name: f for f in fields(self.config)}  # type: ignore[arg-type]
        every = {**shared, **own}
        names = dict.fromkeys([*self.needs, *own, *self.takes])
        return {name: every[name] for name in names}

    @property
    def __signature__(self) -> inspect.Signature:
        """For `help`: keywords with their types and defaults."""
        return inspect.Signature(
            [
                inspect.Parameter(
                    name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=inspect.Parameter.empty if name in self.needs else self._default(field),
                    annotation=field.type,
                )
                for name, field in self.parameters().items()
            ]
        )

    def _default(self, field: Field[Any]) -> Any:
        if field.name in self.defaults:
            return self.defaults[field.name]
        return field.default_factory() if field.default_factory is not MISSING else field.default


def _of(kind: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass of those values that are its fields."""
    return kind(**{f.name: values[f.name] for f in fields(kind) if f.name in values})  # type: ignore[arg-type]


def verb(
    config: type[C], *, needs: Sequence[str], takes: Sequence[str], defaults: Mapping[str, Any] | None = None
) -> Callable[[Callable[[Case, C, Run], R]], Verb[C, R]]:
    """Make a verb of a function; see `Verb`."""

    def made(function: Callable[[Case, C, Run], R]) -> Verb[C, R]:
        found = Verb(function, config, needs, takes, defaults or {})
        for name in ("__module__", "__name__", "__qualname__", "__doc__"):  # for help and pages made of docstrings
            object.__setattr__(found, name, getattr(function, name))
        return found

    return made
