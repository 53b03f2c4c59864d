"""`unbackdoor info`."""

from __future__ import annotations

from typing import Any

from unbackdoor.cli.generate import Result, command_of
from unbackdoor.cli.options import refuse
from unbackdoor.verbs.configs.models import INFO


def lines(result: dict[str, Any]) -> list[str]:
    """One line per fact; long lists and tables are cut short for people."""
    out = []
    for key, value in result.items():
        if isinstance(value, list | tuple | dict) and len(value) > 12:
            head = list(value.items() if isinstance(value, dict) else value)[:12]
            out.append(f"{key}: {len(value)} entries, first {head}")
        else:
            out.append(f"{key}: {value}")
    return out


@command_of(INFO, "model checkpoint data classes trigger", lines)
def command(given: dict[str, Any]) -> Result:
    """Describe a model, a data source or a trigger."""
    if "model" not in given:
        refuse(["checkpoint"], "without --model")
    if "data" not in given:
        refuse(["classes"], "without --data")
    from unbackdoor.verbs.info import info

    return info(**given)
