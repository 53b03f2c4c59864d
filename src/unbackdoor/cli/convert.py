"""`unbackdoor convert`."""

from __future__ import annotations

from typing import Any

from unbackdoor.cli.generate import Result, command_of
from unbackdoor.verbs.configs.models import CONVERT


def lines(result: dict[str, Any]) -> list[str]:
    """The new model for people."""
    differences = result["differences"]
    return [
        f"model:  {result['model']}",
        f"embeddings differ by at most {differences['images']:.1e} (images), {differences['texts']:.1e} (texts)",
    ]


@command_of(CONVERT, "model checkpoint to device out", lines)
def command(given: dict[str, Any]) -> Result:
    """Write an OpenCLIP model as Hugging Face's CLIPModel, or back, once both give the same embeddings."""
    from unbackdoor.verbs.convert import convert

    return convert(**given)
