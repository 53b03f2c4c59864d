"""`unbackdoor disentangle`."""

from __future__ import annotations

from typing import Any

from unbackdoor.cli.generate import Result, command_of
from unbackdoor.verbs.configs.geometry import DISENTANGLE


def lines(result: dict[str, Any]) -> list[str]:
    """The map for people."""
    box = result["box"]
    out = [
        f"ξ over [0, 1]²: {box['value']:.3f} [{box['interval'][0]:.3f}, {box['interval'][1]:.3f}]  n={box['n']}",
        f"cosine of the vectors: {result['cosine']:.3f}" if result["cosine"] is not None else "a vector is 0",
    ]
    for place, facts in result["at"].items():
        shares = ", ".join(
            f"{name} {facts[key]['value']:.1%}"
            for key, name in (("ca", "CA"), ("asr", "ASR"))
            if facts[key]["value"] is not None
        )
        out.append(f"at ({place}): ξ {facts['xi']['value']:.3f}, {shares}")
    return [*out, f"{result['looked_at']} points in {result['seconds']:.0f} s; map: {result['map']}"]


@command_of(
    DISENTANGLE,
    "model checkpoint clean triggered data trigger target low high points sharp alpha limit classes templates device "
    "seed track out",
    lines,
)
def command(given: dict[str, Any]) -> Result:
    """Map how far a clean and a trigger vector disturb one another, all over their plane."""
    from unbackdoor.verbs.disentangle import disentangle

    return disentangle(**given)
