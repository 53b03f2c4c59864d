"""`unbackdoor vector`."""

from __future__ import annotations

from typing import Any

from unbackdoor.cli.generate import Result, command_of
from unbackdoor.verbs.configs.vector import VECTOR


def lines(result: dict[str, Any]) -> list[str]:
    """The vector for people."""
    return [
        f"vector: {result['vector']}",
        f"norm {result['norm']:.4g}, {result['relative_norm']:.2%} of the image tower's; "
        f"{result['samples']} images, {result['steps']} steps, {result['seconds']:.0f} s",
    ]


@command_of(
    VECTOR,
    "model checkpoint data trigger target samples epochs method lr classes templates device seed track out",
    lines,
)
def command(given: dict[str, Any]) -> Result:
    """Fine-tune the suspect briefly on triggered images; store the weight difference."""
    from unbackdoor.verbs.vector import trigger_vector

    return trigger_vector(**given)
