"""Words to the user that are no error: one line each on stderr, and a list of them for a run's result."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from unbackdoor.base.devices import is_first_process
from unbackdoor.base.printable import one_line

_SPOKEN: set[str] = set()  # a line is printed once in a process, however often it is true
_LISTENERS: list[list[str]] = []


def warn(line: str) -> None:
    """Print `warning: …` on stderr, once for each text; a collection that is open gets it every time.

    Args:
        line: what is doubtful, where, and what to do, as in an `InputError`; it is made printable here.
    """
    text = one_line(line)
    for lines in _LISTENERS:
        if text not in lines:
            lines.append(text)
    if text not in _SPOKEN and is_first_process():
        _SPOKEN.add(text)
        print(f"warning: {text}", file=sys.stderr, flush=True)


def tell(line: str) -> None:
    """Print a line on stderr that warns of nothing, such as what is about to happen; made printable here."""
    if is_first_process():
        print(one_line(line), file=sys.stderr, flush=True)


@contextmanager
def collected() -> Iterator[list[str]]:
    """A list that fills with every warning of the block, each text once, in the order they come."""
    lines: list[str] = []
    _LISTENERS.append(lines)
    try:
        yield lines
    finally:
        _LISTENERS[:] = [other for other in _LISTENERS if other is not lines]
