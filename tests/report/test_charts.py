"""Charts: the same bytes each time, every number in them, no text of strangers let through as markup."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from unbackdoor.report import charts
from unbackdoor.report.charts import (
    COLORS,
    LEVELS,
    Dot,
    Guide,
    Line,
    Point,
    contour_map,
    line_chart,
    scatter_chart,
    strip_chart,
)
from unbackdoor.report.curve import alpha_curve

HOSTILE = "<script>alert('x')</script>" + "W" * 300
AXIS = [-1.0, 0.0, 1.0, 2.0]
SURFACE = np.linspace(0, 2, 16).reshape(4, 4)


def elements(svg: str, tag: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter(f"{{http://www.w3.org/2000/svg}}{tag}"))


def texts(svg: str, tag: str = "text") -> list[str]:
    return [element.text or "" for element in elements(svg, tag)]


def lines(name: str = "ca") -> list[Line]:
    points = [Point(x, y, (y - 5, y + 5), f"{name} at {x:g}: {y:g}%") for x, y in ((1, 10.0), (10, 40.0), (100, 90.0))]
    return [Line(name, points, COLORS[0]), Line("other", points[:1], COLORS[1], dashed=True)]


def dots(name: str = "d") -> list[Dot]:
    return [Dot(0.0, 100.0, "x", name, 1.5, 2.5), Dot(100.0, 0.0, "y", name)]


def every(name: str) -> dict[str, str]:
    """One of each kind, with `name` wherever text of strangers can come."""
    return {
        "lines": line_chart(name, lines(name), "α", [Guide(name, 50.0), Guide("chosen", 10.0, upright=True)]),
        "map": contour_map(AXIS, SURFACE, name, [(1.0, 1.0), (1.0, -0.5)]),
        "scatter": scatter_chart(
            name, [*dots(name), Dot(1.0, 1.0, name, "k")], ["x", "y", name], [name, "k"], "a", "b"
        ),
    }


@pytest.mark.parametrize("name", [HOSTILE, "$\\frac{", "_hidden", "", "猫" * 300, "\x00\x1b[31m\ud800\u202e&<>\"'"])
def test_text_of_strangers_is_text_and_stays_inside(name: str) -> None:
    for svg in every(name).values():
        assert "<script" not in svg and not re.search("[\x00\x1b\ud800\u202e]", svg)
        assert all(len(text) <= charts._TITLE for text in texts(svg))
    if name in ("$\\frac{", "_hidden"):
        assert all(name in texts(svg) for svg in every(name).values()), "no mathematics, and not left out"


def test_nothing_is_asked_from_outside_and_no_date_is_kept() -> None:
    for kind, svg in every("a").items():
        assert svg.startswith("<svg"), "as a page can hold it"
        assert not re.findall(r"""(?:src|href)=["'](?!#)|url\((?!#)|@import|<!|<metadata""", svg), kind


def test_the_callers_settings_change_nothing_and_stay() -> None:
    import matplotlib

    plain = every("a")
    theirs = {"font.size": 33.0, "svg.fonttype": "path", "axes.grid": True, "text.usetex": True}
    with matplotlib.rc_context(theirs):
        assert every("a") == plain
        assert {key: matplotlib.rcParams[key] for key in theirs} == theirs


def test_another_process_draws_the_same_bytes_without_pyplot() -> None:
    probe = (
        "import sys\nfrom tests.report.test_charts import every\n"
        "sys.stdout.reconfigure(encoding='utf-8', newline='')\n"
        "print(''.join(every('a').values()), end='')\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, cwd=root, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == "".join(every("a").values())


def test_a_chart_has_a_name_a_description_and_a_note_on_every_mark() -> None:
    svg = line_chart("rates", lines(), "α", [Guide("tolerance 0.5%", 0.5)])
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img" and root.get("aria-label") == "rates"
    notes = [point.note for line in lines() for point in line.points]
    assert texts(svg, "title") == notes and texts(svg, "desc") == ["; ".join(notes)]
    assert {"rates", "α", "rate (%)", "ca", "other", "tolerance 0.5%"} <= set(texts(svg))


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_every_color_is_told_from_the_paper_by_day_and_by_night() -> None:
    dark = charts._DARK[charts._PAPER]
    for color in COLORS:
        assert contrast(color, charts._PAPER) >= 3 and contrast(color, dark) >= 3, color
    for ink in (charts._INK, charts._SOFT):
        assert contrast(ink, charts._PAPER) >= 4.5 and contrast(charts._DARK[ink], dark) >= 4.5, ink
    for svg in every("a").values():
        for light, night in charts._DARK.items():
            assert f'[style*="fill: {light}"]{{fill:{night} !important}}' in svg
        assert f"fill: {charts._PAPER}" in svg.partition("</style>")[2], "what the rule changes is there"


@pytest.mark.parametrize("log", [False, True])
def test_what_is_not_finite_is_left_out_of_lines(log: bool) -> None:
    bad = [Point(math.nan, 1, (0, 1), "bad"), Point(1, math.inf, (0, 1), "bad"), Point(1, 1, (math.nan, 1), "bad")]
    svg = line_chart("", [Line("", [*bad, Point(2, 3, (2, 4), "good")], COLORS[0])], "x", [Guide("", math.nan)], log)
    assert texts(svg, "title") == ["good"]
    assert "<title>" not in line_chart("", [Line("", bad, COLORS[0])], "x", log=log)
    below = line_chart("", [Line("", [Point(-1, 1, (0, 1), "left")], COLORS[0])], "x", log=log)
    assert texts(below, "title") == ([] if log else ["left"])


@pytest.mark.parametrize(
    ("values", "extent"),
    [
        (np.zeros((4, 4)), "ξ lies between 0 and 0"),
        (np.full((4, 4), 2.0 + 1e-9), "ξ lies between 2 and 2"),
        (np.full((4, 4), math.nan), "ξ is not known anywhere"),
        (np.where(SURFACE > 1, math.inf, SURFACE), "ξ lies between 0 and 0.933"),
    ],
)
def test_a_map_of_anything_is_drawn(values: np.ndarray, extent: str) -> None:
    assert texts(contour_map(AXIS, values, "m"), "desc") == [extent]


def test_a_map_tells_its_levels_and_its_path() -> None:
    svg = contour_map(AXIS, SURFACE, "m", [(1.0, 1.0), (1.0, -0.5), (9.0, 9.0)])
    assert {f"{level:g}" for level in LEVELS} <= set(texts(svg))
    assert texts(svg, "title") == ["path at α_c 1, α_t 1", "path at α_c 1, α_t -0.5"], "what lies outside is no mark"
    assert {"α_c (clean vector)", "α_t (trigger vector)"} <= set(texts(svg))


def test_a_scatter_names_every_dot() -> None:
    svg = scatter_chart("s", [*dots(), Dot(math.nan, 1.0, "x", "d")], ["x", "y"], ["d"], "ASR (%)", "CA (%)")
    assert texts(svg, "title") == ["d, x: ASR (%) 0.0, CA (%) 100.0", "d, y: ASR (%) 100.0, CA (%) 0.0"]
    assert {"x", "y", "d (shape)"} <= set(texts(svg))


def test_a_strip_names_every_dot_and_the_line() -> None:
    svg = strip_chart(1.5, [(0.5, 0), (0.75, 0), (math.nan, 1)], "score")
    assert texts(svg, "title") == ["a clean model: 0.50", "a clean model: 0.75"]
    assert texts(svg, "desc")[0].startswith("this model: 1.50; ") and {"this model", "score"} <= set(texts(svg))
    assert "<title>" not in strip_chart(math.nan, [], "score")


def rate(value: float | None) -> dict[str, object]:
    return {"value": value, "n": 512, "interval": None if value is None else [max(0, value - 0.1), value]}


def test_the_curve_holds_its_numbers_and_its_limits() -> None:
    curve = [{"alpha": a, "ca": rate(0.9), "asr": rate(v)} for a, v in ((0.0, 0.97), (0.5, None), (1.0, 0.004))]
    svg = alpha_curve({"curve": curve, "alpha": 0.5, "tolerance": 0.005, "ca_floor": 0.85, "labels_used": False})
    assert "ASR at α 0: 97.0% of 512" in texts(svg, "title") and len(texts(svg, "title")) == 5
    agreement = "agreement with the suspect"
    assert {"chosen α = 0.5", "tolerance 0.5%", "agreement floor 85%", agreement} <= set(texts(svg))
    assert alpha_curve({"curve": curve[:1]}) == "" == alpha_curve({"curve": None})
