"""`unbackdoor locate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unbackdoor.cli.options import Number, Verb, shared, show


@click.command("locate", cls=Verb)
@shared("model", "checkpoint")
@click.option("--vector", required=True, type=click.Path(path_type=Path), help="Trigger vector, as vector writes it.")
@click.option(
    "--other", "others", multiple=True, type=click.Path(path_type=Path), help="Compare with this vector, too."
)
@shared("data", "trigger", "target")
@click.option("--alpha", type=Number(), default=1.0, show_default=True, help="How far blocks are subtracted.")
@click.option("--limit", type=click.IntRange(1), default=512, show_default=True, help="Images, drawn by seed.")
@shared("classes", "templates", "device", "seed")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the numbers.")
@shared("json", "debug")
def command(as_json: bool, **options: Any) -> None:
    """Show where in a model a trigger vector sits, and which part of it does the work."""
    from unbackdoor.verbs.locate import locate

    show(locate(**options), as_json, lines)


def lines(result: dict[str, Any]) -> list[str]:
    """A line for each block."""
    wide = max(len(row["block"]) for row in result["blocks"])
    out = [f"{'block':<{wide}}  share   alone: CA    ASR  all but it: CA    ASR   (α = {result['alpha']:g})"]
    for row in result["blocks"]:
        alone, without = row["alone"], row["without"]
        out.append(
            f"{row['block']:<{wide}}  {row['share']:5.1%}       {_percent(alone, 'ca')} {_percent(alone, 'asr')}"
            f"           {_percent(without, 'ca')} {_percent(without, 'asr')}"
        )
    out += [f"cosine with {name}: {_number(told['whole'])}" for name, told in result["cosines"].items()]
    return [*out, f"numbers: {result['location']} ({result['seconds']:.0f} s)"]


def _percent(part: dict[str, Any], name: str) -> str:
    value = part[name]["value"]
    return "    –" if value is None else f"{value:6.1%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
