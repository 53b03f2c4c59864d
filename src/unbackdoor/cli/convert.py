"""`unbackdoor convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unbackdoor.cli.options import Verb, shared, show


@click.command("convert", cls=Verb)
@shared("model", "checkpoint")
@click.option("--to", type=click.Choice(["hf", "open_clip"]), required=True, help="The form that is wanted.")
@shared("device")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write; not there yet.")
@shared("json", "debug")
def command(as_json: bool, **options: Any) -> None:
    """Write an OpenCLIP model as Hugging Face's CLIPModel, or back, once both give the same embeddings."""
    from unbackdoor.verbs.convert import convert

    show(
        convert(**options),
        as_json,
        lambda r: [
            f"model:  {r['model']}",
            f"embeddings differ by at most {r['differences']['images']:.1e} (images), "
            f"{r['differences']['texts']:.1e} (texts)",
        ],
    )
