"""`unbackdoor craft`."""

from __future__ import annotations

from typing import Any

from unbackdoor.cli.generate import Result, command_of
from unbackdoor.cli.options import story_lines
from unbackdoor.verbs.configs.planting import CRAFT


@command_of(
    CRAFT,
    "model checkpoint data trigger target steps limit test_limit classes templates device seed track out",
    lambda r: [*story_lines(r), f"use it: --trigger @{r['trigger_file']}"],
)
def command(given: dict[str, Any]) -> Result:
    """Optimise BadCLIP's patch against a clean model; the rates are the patch's on that model."""
    from unbackdoor.verbs.craft import craft

    return craft(**given)
