"""Rates over α, from the points that a search or a walk along the vector has measured."""

from __future__ import annotations

from typing import Any

from unbackdoor.report.charts import COLORS, Guide, Line, Point, line_chart

_CLEAN = {True: "clean accuracy", False: "agreement with the suspect"}
_FLOOR = {True: "clean accuracy floor", False: "agreement floor"}
_TRIGGERED = {True: "triggered accuracy", False: "answered as without the trigger"}


def rate_names(result: dict[str, Any]) -> dict[str, str]:
    """What to call each rate of a curve, by its key; without labels images count as the suspect answers them."""
    labels = result.get("labels_used", True)
    names = {"ca": _CLEAN[labels], "asr": "attack success rate", "triggered_accuracy": _TRIGGERED[labels]}
    curve = result.get("curve") or []
    return {key: name for key, name in names.items() if any(point.get(key) is not None for point in curve)}


def limits(result: dict[str, Any]) -> dict[str, float]:
    """What the search has to keep to, as shares: the largest ASR, and the smallest of what shall stay."""
    named = {"tolerance": "tolerance", "ca_floor": _FLOOR[result.get("labels_used", True)]}
    return {name: result[key] for key, name in named.items() if result.get(key) is not None}


def alpha_curve(result: dict[str, Any]) -> str:
    """SVG with 95% intervals, the chosen α, the tolerance and the floor; "" without a curve."""
    curve = result.get("curve") or []
    if len(curve) < 2:
        return ""
    clean = rate_names(result)["ca"]
    lines = [
        Line(clean, _points(curve, "ca"), COLORS[0]),
        Line("attack success rate", _points(curve, "asr"), COLORS[1], dashed=True),
    ]
    guides = [Guide(f"{name} {100 * share:.3g}%", 100 * share) for name, share in limits(result).items()]
    chosen = result.get("alpha")
    if chosen is not None:
        guides.append(Guide(f"chosen α = {chosen:.3g}", chosen, upright=True))
    title = f"{clean[:1].upper()}{clean[1:]} and attack success rate over α"
    return line_chart(title, lines, "α (multiple of the vector that is subtracted)", guides)


def _points(curve: list[dict[str, Any]], key: str) -> list[Point]:
    rates = [(point["alpha"], point[key]) for point in curve if point[key]["value"] is not None]
    return [
        Point(
            alpha,
            100 * rate["value"],
            (100 * rate["interval"][0], 100 * rate["interval"][1]),
            f"{key.upper()} at α {alpha:.4g}: {rate['value'] * 100:.1f}% of {rate['n']}",
        )
        for alpha, rate in rates
    ]
