"""Charts of the page as Vega-Lite specifications: the search for α, the null of a scan, the map of embeddings.

They are plain dicts, checked against Vega-Lite's schema by Altair in the tests. The code that draws them is shipped
(`assets/charts`, made once by `recipes/page`): Altair and vl-convert at run time would add 33 MB, an engine of
JavaScript among it, to every installation for three charts. Colors are names of the page's style, so that a chart
follows light, dark and print without being drawn anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"  # a name, not an address that is asked
POSITION = "position"  # the parameter that the slider sets
BINS = 60  # of a strip of dots: what falls into one is stacked
_INK, _SOFT, _GRID = "var(--ink)", "var(--soft)", "var(--line)"
COLORS = ("var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)")
_CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": _SOFT, "titleColor": _INK, "gridColor": _GRID, "domainColor": _SOFT, "tickColor": _SOFT,
        "labelFontSize": 12, "titleFontSize": 13, "titleFontWeight": "normal",
    },
    "legend": {
        "labelColor": _INK, "titleColor": _INK, "orient": "bottom", "title": None, "labelFontSize": 13, "columns": 1,
        "labelLimit": 320,
    },
}  # fmt: skip


def alpha_chart(
    curve: Sequence[Mapping[str, Any]], names: Mapping[str, str], guides: Mapping[str, float], chosen: float
) -> dict[str, Any]:
    """Rates with 95% intervals over α, and an upright line at the parameter `position`.

    Args:
        curve: points of a result.
        names: what to call each rate that is drawn, by its key.
        guides: lines across, by name, as shares.
        chosen: α, where the upright line begins.
    """
    rows = [
        {
            "alpha": point["alpha"],
            "name": name,
            "value": point[key]["value"],
            "low": point[key]["interval"][0],
            "high": point[key]["interval"][1],
            "note": f"{name} at α {point['alpha']:.4g}: {100 * point[key]['value']:.1f}% of {point[key]['n']}",
        }
        for key, name in names.items()
        for point in curve
        if point.get(key) is not None and point[key]["value"] is not None
    ]
    color = {
        "field": "name", "type": "nominal", "sort": None,
        "scale": {"domain": list(names.values()), "range": list(COLORS[: len(names)])},
    }  # fmt: skip
    x = {"field": "alpha", "type": "quantitative", "title": "α (multiple of the vector that is subtracted)"}
    y = {
        "field": "value", "type": "quantitative", "title": "rate", "axis": {"format": "%"},
        "scale": {"domain": [0, 1]},
    }  # fmt: skip
    note = {"field": "note", "type": "nominal"}
    layers: list[dict[str, Any]] = [
        {
            "mark": {"type": "rule", "opacity": 0.55, "aria": False},
            "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": color},
        },
        {"mark": {"type": "line", "aria": False}, "encoding": {"x": x, "y": y, "color": color}},
        {
            "mark": {"type": "point", "filled": True, "size": 55, "opacity": 1},
            "encoding": {
                "x": x, "y": y, "color": color, "shape": {**color, "scale": {"domain": list(names.values())}},
                "tooltip": note, "description": note,
            },
        },
        *(_guide(y, f"{name} {100 * at:.3g}%", at) for name, at in guides.items()),
        {
            "data": {"values": [{}]},
            "transform": [{"calculate": POSITION, "as": "at"}],
            "mark": {"type": "rule", "color": _INK, "strokeWidth": 2},
            "encoding": {"x": {**x, "field": "at"}, "description": {"value": "the α that the slider stands at"}},
        },
    ]  # fmt: skip
    return {
        **_chart("Rates over α, measured while α was chosen, with 95% intervals", 300),
        "params": [{"name": POSITION, "value": chosen}],
        "data": {"values": rows},
        "layer": layers,
    }


def strip_chart(score: float, clean: Sequence[float], unit: str) -> dict[str, Any]:
    """Scores of clean models as dots, stacked where they lie close, and the suspect's as an upright line."""
    places = stacked(clean, score)
    dots = [{"score": value, "row": row, "note": f"a clean model: {value:.2f}"} for value, row in places]
    x = {"field": "score", "type": "quantitative", "title": unit, "scale": {"zero": False, "nice": True}}
    top = max((row for _, row in places), default=0) + 1
    y = {"field": "row", "type": "quantitative", "axis": None, "scale": {"domain": [-1, max(6, top)]}}
    note = {"field": "note", "type": "nominal"}
    right = 2 * score > min([*clean, score]) + max([*clean, score])  # where the text has room on its left
    own = [{"score": score, "name": "this model", "note": f"this model: {score:.2f}"}]
    return {
        **_chart(f"Scores of {len(clean)} clean models as dots, and of this model as a line", 130),
        "layer": [
            {
                "data": {"values": dots},
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 0.75, "color": COLORS[0]},
                "encoding": {"x": x, "y": y, "tooltip": note, "description": note},
            },
            {
                "data": {"values": own},
                "mark": {"type": "rule", "color": COLORS[1], "strokeWidth": 3},
                "encoding": {"x": x, "tooltip": note, "description": note},
            },
            {
                "data": {"values": own},
                "mark": {
                    "type": "text", "align": "right" if right else "left", "dx": -7 if right else 7,
                    "color": COLORS[1], "fontSize": 13, "fontWeight": "bold",
                },
                "encoding": {"x": x, "y": {"value": 10}, "text": {"field": "name", "type": "nominal"}},
            },
        ],
    }  # fmt: skip


def map_chart(points: Sequence[tuple[float, float, str, str]], states: Sequence[str]) -> dict[str, Any]:
    """A map of embeddings.

    Args:
        points: across, up, which of `states`, and a note.
        states: in the order of their colors.
    """
    note = {"field": "note", "type": "nominal"}
    color = {
        "field": "state", "type": "nominal", "sort": None,
        "scale": {"domain": list(states), "range": list(COLORS[: len(states)])},
    }  # fmt: skip
    axis = {"labels": False, "ticks": False}
    place = {"type": "quantitative", "scale": {"zero": False}, "axis": axis}
    return {
        **_chart("Embeddings of test images, in the two directions in which they differ most", 380),
        "data": {"values": [{"x": x, "y": y, "state": state, "note": note} for x, y, state, note in points]},
        "mark": {"type": "point", "filled": True, "size": 45, "opacity": 0.7},
        "encoding": {
            "x": {"field": "x", "title": "first direction", **place},
            "y": {"field": "y", "title": "second direction", **place},
            "color": color, "shape": {**color, "scale": {"domain": list(states)}}, "tooltip": note,
            "description": note,
        },
    }  # fmt: skip


def stacked(values: Sequence[float], *further: float) -> list[tuple[float, int]]:
    """Each value in ascending order, with its place in the stack of those that fall into one of sixty bins with it."""
    every = [*values, *further]
    low, step = min(every, default=0.0), (max(every, default=0.0) - min(every, default=0.0)) / BINS or 1.0
    heights: dict[int, int] = {}
    rows = []
    for value in sorted(values):
        place = int((value - low) / step)
        rows.append((value, heights.get(place, 0)))
        heights[place] = heights.get(place, 0) + 1
    return rows


def _chart(description: str, height: int) -> dict[str, Any]:
    return {
        "$schema": SCHEMA,
        "description": description,
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "config": _CONFIG,
    }


def _guide(y: Mapping[str, Any], name: str, at: float) -> dict[str, Any]:
    """A broken line across at a height, with its name on a rim of paper, so that it is read above other lines."""
    text = {"type": "text", "align": "right", "dy": -6, "fontSize": 12}
    place = {"y": {**y, "field": "at"}, "x": {"value": "width"}, "text": {"field": "name", "type": "nominal"}}
    rim = {**text, "stroke": "var(--paper)", "strokeWidth": 4, "aria": False}
    return {
        "data": {"values": [{"at": at, "name": name}]},
        "layer": [
            {
                "mark": {"type": "rule", "strokeDash": [5, 4], "color": _SOFT},
                "encoding": {"y": place["y"], "description": {"value": name}},
            },
            {"mark": rim, "encoding": place},
            {"mark": {**text, "color": _SOFT}, "encoding": place},
        ],
    }
