"""`unbackdoor disentangle`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unbackdoor.cli.options import Number, Verb, shared, show


@click.command("disentangle", cls=Verb)
@shared("model", "checkpoint")
@click.option("--clean", required=True, help="Clean vector: a vector's file, or a model less --model.")
@click.option("--triggered", required=True, help="Trigger vector: a vector's file, or a model less --model.")
@shared("data", "trigger", "target")
@click.option("--low", type=Number(), default=-3.0, show_default=True, help="Smallest coefficient, both ways.")
@click.option("--high", type=Number(), default=3.0, show_default=True, help="Largest coefficient.")
@click.option("--points", type=click.IntRange(2, 501), default=21, show_default=True, help="Points a side.")
@click.option("--sharp", type=Number(0), default=0.05, show_default=True, help="Refine where ξ changes more; 0: all.")
@click.option("--alpha", type=Number(), help="Draw a cure's path from (1, 1) down by this much.")
@click.option("--limit", type=click.IntRange(1), default=256, show_default=True, help="Images, drawn by seed.")
@shared("classes", "templates", "device", "seed")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the map and its numbers.")
@shared("json", "debug")
def command(as_json: bool, **options: Any) -> None:
    """Map how far a clean and a trigger vector disturb one another, all over their plane."""
    from unbackdoor.verbs.disentangle import disentangle

    show(disentangle(**options), as_json, lines)


def lines(result: dict[str, Any]) -> list[str]:
    """The map for people."""
    box = result["box"]
    out = [
        f"ξ over [0, 1]²: {box['value']:.3f} [{box['interval'][0]:.3f}, {box['interval'][1]:.3f}]  n={box['n']}",
        f"cosine of the vectors: {result['cosine']:.3f}" if result["cosine"] is not None else "a vector is 0",
    ]
    for place, told in result["at"].items():
        shares = ", ".join(
            f"{name} {told[key]['value']:.1%}"
            for key, name in (("ca", "CA"), ("asr", "ASR"))
            if told[key]["value"] is not None
        )
        out.append(f"at ({place}): ξ {told['xi']['value']:.3f}, {shares}")
    return [*out, f"{result['looked_at']} points in {result['seconds']:.0f} s; map: {result['map']}"]
