"""`unbackdoor poison`."""

from __future__ import annotations

from typing import Any

from unbackdoor.cli.generate import Result, command_of
from unbackdoor.cli.options import story_lines
from unbackdoor.verbs.configs.planting import POISON


@command_of(
    POISON,
    "model checkpoint data trigger target regime poison_rate clean_label epochs batch_size test captions lr limit "
    "test_limit classes templates device seed track out",
    lambda r: [*story_lines(r), f"model: {r['model']}"],
)
def command(given: dict[str, Any]) -> Result:
    """Make a backdoored model: fine-tune on data of which a share is triggered and relabelled."""
    from unbackdoor.verbs.poison import poison

    return poison(**given)
