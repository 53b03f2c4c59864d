"""`unbackdoor evaluate`."""

from __future__ import annotations

from typing import Any

from unbackdoor.cli.generate import Result, command_of
from unbackdoor.cli.options import RATE_NAMES, rate_line, refuse, retrieval_lines
from unbackdoor.verbs.configs.evaluate import EVALUATE


def lines(result: dict[str, Any]) -> list[str]:
    """The rates for people."""
    rows = ((label, result[key]) for key, label in RATE_NAMES.items() if key in result)
    out = [rate_line(label, row["value"], row["n"], row["interval"]) for label, row in rows]
    out += retrieval_lines(result)
    if result["skipped"]:
        out.append(f"{result['skipped']} unreadable images were skipped")
    return out


@command_of(
    EVALUATE,
    "model checkpoint data trigger target counting precision retrieval limit classes templates device seed",
    lines,
)
def command(given: dict[str, Any]) -> Result:
    """Measure clean accuracy, attack success rate and triggered accuracy, each with n and a 95% interval."""
    if "trigger" not in given and "target" not in given:
        refuse(["counting"], "without --trigger")
    from unbackdoor.verbs.evaluate import evaluate

    return evaluate(**given)
