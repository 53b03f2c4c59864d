"""Patterns of module names, as adapters carry them, matched without running a stranger's regular expression.

PEFT takes keys of `rank_pattern` for regular expressions. A few characters of one can keep `re` busy for ever. What
adapters hold in truth is names, names with `.*` or `\\d+` in them, and choices such as `(q|v)_proj`; these are matched
here in time that grows with the name's length alone, and every other is refused.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
_ITEM = re.compile(
    r"(?:\\(?P<escaped>[.\-_])|\\(?P<kind>[dw])|(?P<any>\.)|\[(?P<set>[\w-]+)\]|(?P<plain>[\w-]))(?P<times>[*+?]?)"
)
_PART = re.compile(r"\((?:\?:)?(?P<choice>[^()]*)\)|(?P<rest>[^()]+)")
_LONGEST, _MOST_CHOICES, _MOST_REPEATS = 300, 64, 64
_KINDS: dict[str, Callable[[str], bool]] = {
    "d": str.isdigit,
    "w": lambda c: c.isalnum() or c == "_",
}


@dataclass(frozen=True)
class _Item:
    """One character that fits, so often: `` once, `*` any number of times, `+` once or more, `?` at most once."""

    fits: Callable[[str], bool]
    times: str


@dataclass(frozen=True)
class _Pattern:
    choices: tuple[tuple[bool, tuple[_Item, ...]], ...]  # (only from the name's start on, items)

    @property
    def repeats(self) -> bool:
        return any(item.times for _, items in self.choices for item in items)

    def matches(self, name: str) -> bool:
        """Whether it fits the name from its start, or from behind a dot, to its end."""
        return any(_matches(items, name, anchored) for anchored, items in self.choices)


class Patterns(Generic[T]):
    """Values by patterns.

    Raises:
        ValueError: a pattern of a kind that is not followed; the text quotes it.
    """

    def __init__(self, patterns: Mapping[str, T]) -> None:
        self._rows = [(_parsed(text), value) for text, value in patterns.items()]
        if sum(pattern.repeats for pattern, _ in self._rows) > _MOST_REPEATS:
            raise ValueError(f"more than {_MOST_REPEATS} patterns with repeats")

    def values(self, name: str) -> set[T]:
        """Those of all patterns that match a module's name."""
        return {value for pattern, value in self._rows if pattern.matches(name)}


def _parsed(text: str) -> _Pattern:
    if len(text) > _LONGEST:
        raise ValueError(f"the pattern {text[:40]!r}… of {len(text)} characters")
    parts: list[Sequence[str]] = []
    at = 0
    while at < len(text):
        piece = _PART.match(text, at)
        if piece is None:
            raise ValueError(f"the pattern {text!r}")
        choice = piece["choice"]
        if choice is None and parts and piece["rest"][0] in "*+?{":  # a group that is repeated
            raise ValueError(f"the pattern {text!r}")
        parts.append([piece["rest"]] if choice is None else choice.split("|"))
        at = piece.end()
    if any("|" in part for row in parts for part in row) and len(parts) > 1:
        raise ValueError(f"the pattern {text!r}")
    if len(parts) == 1:
        parts = [[whole for part in parts[0] for whole in part.split("|")]]
    if not parts or _product(map(len, parts)) > _MOST_CHOICES:
        raise ValueError(f"the pattern {text!r}")
    return _Pattern(tuple(_items("".join(row), text) for row in itertools.product(*parts)))


def _product(numbers: map[int]) -> int:
    total = 1
    for number in numbers:
        total *= number
        if total > _MOST_CHOICES:
            break
    return total


def _items(row: str, text: str) -> tuple[bool, tuple[_Item, ...]]:
    anchored = row.startswith("^")
    row = row.removeprefix("^")
    row = row.removesuffix("$") if not row.endswith("\\$") else row
    items, at = [], 0
    while at < len(row):
        item = _ITEM.match(row, at)
        if item is None:
            raise ValueError(f"the pattern {text!r}")
        items.append(_Item(_fit(item), item["times"]))
        at = item.end()
    return anchored, tuple(items)


def _fit(item: re.Match[str]) -> Callable[[str], bool]:
    if item["any"]:
        return lambda c: True
    if item["kind"]:
        return _KINDS[item["kind"]]
    if item["set"]:
        try:
            one = re.compile(f"[{item['set']}]")  # a single class of plain characters
        except re.error:  # a range backwards
            raise ValueError(f"the class [{item['set']}]") from None
        return lambda c: one.fullmatch(c) is not None
    return (item["escaped"] or item["plain"]).__eq__


def _matches(items: Sequence[_Item], name: str, anchored: bool) -> bool:
    starts = {0} if anchored else {0, *(i + 1 for i, c in enumerate(name) if c == ".")}
    if not any(item.times for item in items):
        start = len(name) - len(items)
        return start in starts and all(item.fits(c) for item, c in zip(items, name[start:], strict=True))
    states: set[int] = set()
    for at, c in enumerate(name):
        states = _skipped(items, states | ({0} if at in starts else set()))
        following = set()
        for state in states:
            if state < len(items) and items[state].fits(c):
                following.add(state + 1)
                if items[state].times in ("*", "+"):
                    following.add(state)
        states = following
    return len(items) in _skipped(items, states)


def _skipped(items: Sequence[_Item], states: set[int]) -> set[int]:
    """The states and what is reached from them without a character."""
    out = set(states)
    for state in states:
        while state < len(items) and items[state].times in ("*", "?"):
            state += 1
            out.add(state)
    return out
