"""`unbackdoor poison`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unbackdoor.cli.options import shared, show, story_lines


@click.command("poison")
@shared("model", "checkpoint", "data", "trigger", "target")
@click.option("--poison-rate", type=float, default=0.03, show_default=True, help="Share of training images.")
@click.option("--clean-label", is_flag=True, help="Trigger images of the target class alone; change no label.")
@click.option("--epochs", type=click.IntRange(1), default=3, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=128, show_default=True)
@shared("lr", "limit", "test_limit", "classes", "templates", "device", "seed")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Output folder.")
@shared("json", "debug")
def command(as_json: bool, **options: Any) -> None:
    """Make a backdoored model: fine-tune on data of which a share is triggered and relabelled."""
    from unbackdoor.verbs.poison import poison

    show(poison(**options), as_json, lambda r: [*story_lines(r), f"model: {r['model']}"])
