"""`unbackdoor bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unbackdoor.cli.options import Verb, shared, show


@click.command("bench", cls=Verb)
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--data-root", type=click.Path(path_type=Path), help="Folder that stands for {data} in the recipe.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option("--workers", type=click.IntRange(0, 1024), default=0, help="Cells at once; by default one per two cores.")
@click.option("--only", multiple=True, metavar="KEY=VALUE", help="Run a part: data=gtsrb, seed=1,2, …; repeatable.")
@click.option("--dry-run", is_flag=True, help="Run nothing; count the cells and tabulate what is there.")
@click.option("--online", is_flag=True, help="Models and data of the recipe may lie on the network.")
@shared("device")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of cells and tables.")
@shared("json", "debug")
def command(as_json: bool, **options: Any) -> int:
    """Run a grid of attacks and defences; go on where it stopped. Exit code 2 when a cell failed."""
    from unbackdoor.verbs.bench import bench

    result = bench(**options)
    show(result, as_json, lines)
    return 2 if result["failed"] else 0


def lines(result: dict[str, Any]) -> list[str]:
    """Counts, failures and where the tables are."""
    out = [f"{result['finished']} of {result['cells']} cells finished, {len(result['missing'])} not run"]
    for row in result["failed"]:
        where = " · ".join(str(row[k]) for k in ("model", "data", "attack", "defence", "seed") if k in row)
        out.append(f"failed: {where}: {row['error']}")
    return [*out, f"tables:  {result['tables']}", f"results: {result['results']}"]
