"""`unbackdoor zoo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unbackdoor.cli.options import RATE, Verb, shared, show


@click.command("zoo", cls=Verb)
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--data-root", type=click.Path(path_type=Path), help="Folder that stands for {data} in the recipe.")
@click.option("--null", type=click.Path(path_type=Path), help="Judge under this one; by default the zoo's own.")
@click.option("--stage", type=click.Choice(["make", "examine", "cure"]), default="cure", show_default=True)
@click.option(
    "--only", multiple=True, metavar="KEY=VALUE", help="Make, examine and cure a part: half=test, …; repeatable."
)
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option("--workers", type=click.IntRange(0, 1024), default=0, help="Cells at once; by default one per two cores.")
@click.option(
    "--false-alarm-rate",
    type=RATE,
    default=0.05,
    show_default=True,
    help="Of clean models.",
)
@click.option("--dry-run", is_flag=True, help="Run nothing; tabulate what is there.")
@click.option("--online", is_flag=True, help="Models and data of the recipe may lie on the network.")
@shared("device")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of members and tables.")
@shared("json", "debug")
def command(as_json: bool, **options: Any) -> int:
    """Make a population of clean and backdoored models, scan and cure it. Exit code 2 when a cell failed."""
    from unbackdoor.verbs.zoo import zoo

    result = zoo(**options)
    show(result, as_json, lines)
    return 2 if result["failed"] else 0


def lines(result: dict[str, Any]) -> list[str]:
    """Counts and where the tables are."""
    out = [f"{result['made']} of {result['members']} members made, {result['examined']} examined"]
    out += [f"failed: {row['address']}: {row['error']}" for row in result["failed"]]
    for half, found in result["halves"].items():
        area = found["detection"][0]["auroc"]
        out.append(f"{half}: AUROC {'–' if area is None else format(area['value'], '.3f')}")
    return [*out, f"tables: {result['tables']}"]
