"""`unbackdoor bench`."""

from __future__ import annotations

from typing import Any

from unbackdoor.cli.generate import Result, command_of
from unbackdoor.verbs.configs.grids import BENCH


def lines(result: dict[str, Any]) -> list[str]:
    """Counts, failures and where the tables are."""
    out = [f"{result['finished']} of {result['cells']} cells finished, {len(result['missing'])} not run"]
    for row in result["failed"]:
        where = " · ".join(str(row[k]) for k in ("model", "data", "attack", "defence", "seed") if k in row)
        out.append(f"failed: {where}: {row['error']}")
    return [*out, f"tables:  {result['tables']}", f"results: {result['results']}"]


@command_of(
    BENCH,
    "recipe data_root engine workers only dry_run online device track out",
    lines,
)
def command(given: dict[str, Any]) -> Result:
    """Run a grid of attacks and defences; go on where it stopped. Exit code 2 when a cell failed."""
    from unbackdoor.verbs.bench import bench

    return bench(**given)
