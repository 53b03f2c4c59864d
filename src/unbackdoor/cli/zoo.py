"""`unbackdoor zoo`."""

from __future__ import annotations

from typing import Any

from unbackdoor.cli.generate import Result, command_of
from unbackdoor.verbs.configs.grids import ZOO


def lines(result: dict[str, Any]) -> list[str]:
    """Counts and where the tables are."""
    out = [f"{result['made']} of {result['members']} members made, {result['examined']} examined"]
    out += [f"failed: {row['address']}: {row['error']}" for row in result["failed"]]
    for half, tables in result["halves"].items():
        area = tables["detection"][0]["auroc"]
        out.append(f"{half}: AUROC {'–' if area is None else format(area['value'], '.3f')}")
    return [*out, f"tables: {result['tables']}"]


@command_of(
    ZOO,
    "recipe data_root null stage only engine workers false_alarm_rate dry_run online device track out",
    lines,
)
def command(given: dict[str, Any]) -> Result:
    """Make a population of clean and backdoored models, scan and cure it. Exit code 2 when a cell failed."""
    from unbackdoor.verbs.zoo import zoo

    return zoo(**given)
