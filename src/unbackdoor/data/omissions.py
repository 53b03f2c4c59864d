"""What a reader leaves out: counted by reason, and the first few named."""

from __future__ import annotations

from collections.abc import Iterable

_NAMED = 3
_LONGEST = 80  # characters of a name


class Omissions:
    """Counts by reason, in the order in which the reasons first came."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        """Count one thing; `reason` is a noun phrase, such as "hidden entries"."""
        self._counts[reason] = self._counts.get(reason, 0) + 1
        names = self._names.setdefault(reason, [])
        if len(names) < _NAMED:
            names.append(short(name))

    def count(self, reason: str) -> int:
        """How many things were left out for that reason."""
        return self._counts.get(reason, 0)

    def notes(self) -> tuple[str, ...]:
        """One line that says what was left out, () where nothing was."""
        parts = [f"{n} {reason} ({listed(self._names[reason], n)})" for reason, n in self._counts.items()]
        return (f"left out: {'; '.join(parts)}",) if parts else ()


def listed(names: Iterable[str], count: int | None = None) -> str:
    """The first few names, and … where there are more.

    Args:
        count: how many there are, where `names` are only the first.
    """
    every = list(names)
    text = ", ".join(short(name) for name in every[:_NAMED])
    return f"{text}, …" if (len(every) if count is None else count) > _NAMED else text


def short(name: str) -> str:
    """A name of bearable length."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 20]}…{name[-19:]}"
