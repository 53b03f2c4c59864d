"""Values in a few words and as a small table, for the Python prompt and for notebooks; what they hold is escaped."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from html import escape
from typing import Any

from unbackdoor.base.printable import terminal

_LONGEST, _ROWS = 80, 40  # characters of a value, rows of a table


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, whose output is no terminal and shows HTML."""
    prompt = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(prompt).__name__ == "ZMQInteractiveShell"


def short(value: Any) -> str:
    """A value in one printable line of at most 80 characters."""
    text = terminal(f"{value:.4g}" if isinstance(value, float) else str(value))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def in_words(kind: str, facts: Mapping[str, Any]) -> str:
    """`Kind(name=value, …)` of plain values."""
    return f"{kind}({', '.join(f'{name}={short(value)}' for name, value in facts.items())})"


def as_table(kind: str, facts: Mapping[str, Any]) -> str:
    """The same as an HTML table of at most 40 rows."""
    rows = "".join(
        f'<tr><th scope="row">{escape(short(name))}</th><td>{escape(short(value))}</td></tr>'
        for name, value in list(facts.items())[:_ROWS]
    )
    more = f"<tr><td colspan=2>and {len(facts) - _ROWS} more</td></tr>" if len(facts) > _ROWS else ""
    return f"<table><caption>{escape(short(kind))}</caption><tbody>{rows}{more}</tbody></table>"
