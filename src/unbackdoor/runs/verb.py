"""A verb: one function of (case, config, run), called from Python by keywords."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from unbackdoor.runs.case import Case
from unbackdoor.runs.parameters import Parameters
from unbackdoor.runs.run import Run
from unbackdoor.runs.settings import Setting, built
from unbackdoor.runs.tracking import tracked

C = TypeVar("C")
R = TypeVar("R")


@dataclass(frozen=True)
class Verb(Generic[C, R]):
    """What a verb does, and what it takes."""

    function: Callable[[Case, C, Run], R]
    takes: Parameters[C]

    def __call__(self, **given: Any) -> R:
        """Run it on keywords, each a field of the case, of the config or of the run.

        Raises:
            TypeError: a keyword that it does not take, or lacks.
            InputError: what it is given cannot be used.
        """
        values = self.takes.values(self.name, given)
        run = built(Run, values)
        with tracked(run, self.name, values) as tell:
            result = self.function(built(Case, values), built(self.takes.config, values), run)
            tell(result)
        return result

    @property
    def name(self) -> str:
        """As it is called."""
        return self.function.__name__

    @property
    def needs(self) -> Sequence[str]:
        """Keywords without which it cannot run."""
        return self.takes.needs

    def parameters(self) -> dict[str, Setting]:
        """What it takes, by keyword: what it needs first."""
        return self.takes.settings()

    @property
    def __signature__(self) -> inspect.Signature:
        """For `help`: keywords with their types and defaults."""
        return self.takes.signature()


def verb(takes: Parameters[C]) -> Callable[[Callable[[Case, C, Run], R]], Verb[C, R]]:
    """Make a verb of a function; see `Verb`."""

    def made(function: Callable[[Case, C, Run], R]) -> Verb[C, R]:
        whole = Verb(function, takes)
        for name in ("__module__", "__name__", "__qualname__", "__doc__"):  # for help and pages made of docstrings
            object.__setattr__(whole, name, getattr(function, name))
        return whole

    return made
