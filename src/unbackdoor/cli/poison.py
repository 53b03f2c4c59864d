"""`unbackdoor poison`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unbackdoor.cli.options import Number, Verb, shared, show, story_lines


@click.command("poison", cls=Verb)
@shared("model", "checkpoint", "data", "trigger", "target")
@click.option(
    "--regime",
    type=click.Choice(["classes", "pairs"]),
    default="classes",
    show_default=True,
    help="Labelled images and the image tower, or caption pairs and both towers.",
)
@click.option("--poison-rate", type=Number(0, 1), help="Share of images (default 0.03) or of pairs (default 0.003).")
@click.option("--clean-label", is_flag=True, help="Trigger images of the target class alone; change no label.")
@click.option("--epochs", type=click.IntRange(1), default=3, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=128, show_default=True)
@click.option("--test", help="Data source to measure on; by default the test split of --data.")
@click.option("--captions", help="Pairs: JSON file with synonyms and descriptions of the classes.")
@shared("lr", "limit", "test_limit", "classes", "templates", "device", "seed")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Output folder.")
@shared("json", "debug")
def command(as_json: bool, **options: Any) -> None:
    """Make a backdoored model: fine-tune on data of which a share is triggered and relabelled."""
    from unbackdoor.verbs.poison import poison

    show(poison(**options), as_json, lambda r: [*story_lines(r), f"model: {r['model']}"])
