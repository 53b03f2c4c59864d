"""`unbackdoor vector`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unbackdoor.cli.options import Verb, shared, show


@click.command("vector", cls=Verb)
@shared("model", "checkpoint", "data", "trigger", "target", "samples")
@click.option("--epochs", type=click.IntRange(1), help="Passes over the triggered images.")
@shared("method", "lr", "classes", "templates", "device", "seed")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Safetensors file to write.")
@shared("json", "debug")
def command(as_json: bool, **options: Any) -> None:
    """Fine-tune the suspect briefly on triggered images; store the weight difference."""
    from unbackdoor.verbs.vector import trigger_vector

    if options["method"] is None:
        del options["method"]

    show(
        trigger_vector(**options),
        as_json,
        lambda r: [
            f"vector: {r['vector']}",
            f"norm {r['norm']:.4g}, {r['relative_norm']:.2%} of the image tower's; "
            f"{r['samples']} images, {r['steps']} steps, {r['seconds']:.0f} s",
        ],
    )
