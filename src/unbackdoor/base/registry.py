"""Things by name; none is imported before somebody asks for it. Other packages add theirs by entry points.

A table has a line for each: where it lies (`module:attribute`) and what it is in a few words. A package of somebody
else registers its own without touching ours; a name that is taken already stays with its first owner, ours above all:

    [project.entry-points."unbackdoor.triggers"]
    dots = "their_package.dots:Dots"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")


@dataclass(frozen=True)
class Registry(Generic[T]):
    """Names and what they stand for.

    Args:
        noun: what each of them is, for errors.
        table: name → (`module:attribute`, a few words on it).
        group: entry points that add to the table; empty where nothing can be added.
    """

    noun: str
    table: Mapping[str, tuple[str, str]]
    group: str = ""

    def names(self) -> tuple[str, ...]:
        """Ours in the table's order, then those of other packages."""
        return (*self.table, *(name for name in _points(self.group) if name not in self.table))

    def __contains__(self, name: str) -> bool:
        """Whether it stands for something; other packages are looked through for names alone that are not ours."""
        return name in self.table or name in _points(self.group)

    def about(self, name: str) -> str:
        """A few words on one.

        Raises:
            InputError: unknown name.
        """
        return self.table[name][1] if name in self.table else f"from the package {_package(self._point(name))}"

    def get(self, name: str) -> T:
        """What a name stands for, imported now.

        Raises:
            InputError: unknown name, or another package's that cannot be loaded.
        """
        if name not in self.table:
            return self._foreign(name)
        from importlib import import_module

        module, _, attribute = self.table[name][0].partition(":")
        entry: T = getattr(import_module(module), attribute)
        return entry

    def get_a(self, kind: type[T], name: str) -> T:
        """What a name stands for, which has to be of a kind: another package may register anything.

        Raises:
            InputError: as `get`; something else.
        """
        entry = self.get(name)
        if not isinstance(entry, kind):
            from unbackdoor.base.errors import InputError

            raise InputError(f"{self.noun} {name[:60]!r} ({self.about(name)}) is no {kind.__name__}")
        return entry

    def _foreign(self, name: str) -> T:
        from unbackdoor.base.errors import InputError, first_line

        point = self._point(name)
        try:
            entry: T = point.load()
        except Exception as error:  # whatever the other package does when it is imported
            raise InputError(
                f"{self.noun} {name[:60]!r} of the package {_package(point)} cannot be loaded ({first_line(error)})"
            ) from error
        return entry

    def _point(self, name: str) -> EntryPoint:
        from unbackdoor.base.errors import InputError

        points = _points(self.group)
        if name not in points:
            raise InputError(f"unknown {self.noun} {name[:60]!r}: choose one of {', '.join(self.names())}")
        return points[name]


@cache
def _points(group: str) -> dict[str, EntryPoint]:
    """Entry points of installed packages by name. Read once, as it looks into every package that is installed."""
    if not group:
        return {}
    from importlib.metadata import entry_points

    points: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=group), key=lambda p: (p.name, _package(p))):
        points.setdefault(point.name, point)
    return points


def _package(point: EntryPoint) -> str:
    dist: Any = point.dist  # None for one that was made by hand
    return str(dist.name) if dist is not None else point.value.partition(":")[0]
