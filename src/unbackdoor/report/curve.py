"""CA and ASR over α, from the points that a search or a walk along the vector has measured."""

from __future__ import annotations

from typing import Any

from unbackdoor.report.charts import COLORS, Guide, Line, Point, line_chart

TITLE = "Clean accuracy and attack success rate over α"


def alpha_curve(result: dict[str, Any]) -> str:
    """SVG with 95% intervals, the chosen α, the tolerance and the floor; "" without a curve."""
    curve = result.get("curve") or []
    if len(curve) < 2:
        return ""
    clean = "clean accuracy" if result.get("labels_used", True) else "answers as the suspect gave them"
    lines = [
        Line(clean, _points(curve, "ca"), COLORS[0]),
        Line("attack success rate", _points(curve, "asr"), COLORS[1], dashed=True),
    ]
    guides = [
        Guide(f"{name} {100 * result[key]:.3g}%", 100 * result[key])
        for key, name in (("tolerance", "tolerance"), ("ca_floor", "CA floor"))
        if result.get(key) is not None
    ]
    chosen = result.get("alpha")
    if chosen is not None:
        guides.append(Guide(f"chosen α = {chosen:.3g}", chosen, upright=True))
    return line_chart(TITLE, lines, "α (multiple of the vector that is subtracted)", guides)


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
