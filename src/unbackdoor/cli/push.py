"""`unbackdoor push`."""

from __future__ import annotations

from typing import Any

from unbackdoor.cli.generate import Result, command_of
from unbackdoor.verbs.configs.push import PUSH


def lines(result: dict[str, Any]) -> list[str]:
    """Where the model is."""
    access = "public" if result["public"] else "private"
    return [f"{result['url']} ({access}): {len(result['files'])} files, the card among them"]


@command_of(PUSH, "folder repository public", lines)
def command(given: dict[str, Any]) -> Result:
    """Upload the cured model of a folder to a new, private repository of the Hugging Face hub, with a card."""
    from unbackdoor.verbs.push import push

    return push(**given)
