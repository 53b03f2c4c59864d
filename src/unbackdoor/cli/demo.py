"""`unbackdoor demo`."""

from __future__ import annotations

from typing import Any

from unbackdoor.cli.generate import Result, command_of
from unbackdoor.cli.unlearn import lines as cure_lines
from unbackdoor.verbs.configs.models import DEMO


def lines(result: dict[str, Any]) -> list[str]:
    """The story for people."""
    return [*cure_lines(result), f"whole demo: {result['seconds']:.0f} s"]


@command_of(DEMO, "out seed", lines)
def command(given: dict[str, Any]) -> Result:
    """Poison the embedded CLIP with a patch, cure it, and write a report. No download, no GPU."""
    from unbackdoor.verbs.demo import demo

    return demo(**given)
