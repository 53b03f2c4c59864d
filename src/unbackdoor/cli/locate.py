"""`unbackdoor locate`."""

from __future__ import annotations

from typing import Any

from unbackdoor.cli.generate import Result, command_of
from unbackdoor.verbs.configs.geometry import LOCATE


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
    out += [f"cosine with {name}: {_number(cosines['whole'])}" for name, cosines in result["cosines"].items()]
    return [*out, f"numbers: {result['location']} ({result['seconds']:.0f} s)"]


def _percent(part: dict[str, Any], name: str) -> str:
    value = part[name]["value"]
    return "    –" if value is None else f"{value:6.1%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


@command_of(
    LOCATE,
    "model checkpoint vector others data trigger target alpha limit classes templates device seed track out",
    lines,
)
def command(given: dict[str, Any]) -> Result:
    """Show where in a model a trigger vector sits, and which part of it does the work."""
    from unbackdoor.verbs.locate import locate

    return locate(**given)
