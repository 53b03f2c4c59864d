"""`unbackdoor demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unbackdoor.cli.options import Verb, shared, show, story_lines


@click.command("demo", cls=Verb)
@click.option("--out", type=click.Path(path_type=Path), default="unbackdoor-demo", show_default=True)
@shared("seed", "json", "debug")
def command(out: Path, seed: int, as_json: bool) -> None:
    """Poison the embedded CLIP with a patch, cure it, and write a report. No download, no GPU."""
    from unbackdoor.verbs.demo import demo

    show(demo(out=out, seed=seed), as_json, lines)


def lines(result: dict[str, Any]) -> list[str]:
    """The story for people."""
    from unbackdoor.cli.unlearn import lines as cure_lines

    return [*cure_lines(result), f"whole demo: {result['seconds']:.0f} s"]


__all__ = ["command", "lines", "story_lines"]
