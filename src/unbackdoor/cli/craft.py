"""`unbackdoor craft`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unbackdoor.cli.options import Verb, shared, show, story_lines


@click.command("craft", cls=Verb)
@shared("model", "checkpoint", "data")
@click.option("--trigger", default="badclip", show_default=True, help="badclip with its size and position.")
@shared("target")
@click.option("--steps", type=click.IntRange(1), help="Optimiser steps.")
@shared("limit", "test_limit", "classes", "templates", "device", "seed")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Output folder.")
@shared("json", "debug")
def command(as_json: bool, **options: Any) -> None:
    """Optimise BadCLIP's patch against a clean model; the rates are the patch's on that model."""
    from unbackdoor.verbs.craft import craft

    show(craft(**options), as_json, lambda r: [*story_lines(r), f"use it: --trigger @{r['trigger_file']}"])
