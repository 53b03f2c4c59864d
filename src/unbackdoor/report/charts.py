"""Charts as SVG, drawn by matplotlib: lines with intervals, the map of ξ, a scatter.

The same input gives the same bytes, whatever the reader's own matplotlib settings. Text may come from strangers: it is
escaped, cut, and never read as mathematics. A chart brings colours for light and for dark, and asks for nothing from
outside.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any
from unicodedata import east_asian_width

import numpy as np
from numpy.typing import NDArray

from unbackdoor.base.printable import one_line, terminal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVELS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0)
# What is written and what it is written on change places in the dark.
_INK, _SOFT, _GRID, _PAPER = "#1b1f24", "#57606a", "#d8dee4", "#fefefe"
_DARK = {_INK: "#e6edf3", _SOFT: "#9198a1", _GRID: "#30363d", _PAPER: "#0d1117"}
# Each has a contrast of 3 or more with both papers (WCAG 2.2, 1.4.11).
COLORS = (
    *("#1f6feb", "#cf222e", "#1a7f37", "#b35900", "#8250df", "#767c85", "#0e8a8a"),
    *("#d63384", "#8a7300", "#a0522d", "#2f8fc4", "#e8590c", "#9f4fc0"),
)
_BOX = "#d62728"
_MARKERS = "osD^vPX*"
_TITLE, _NAME = 62, 34  # letters of common width in a line of the title, in a name of the legend
_SETTINGS = {
    "axes.edgecolor": _SOFT, "axes.facecolor": _PAPER, "axes.labelcolor": _INK, "axes.titlecolor": _INK,
    "axes.titlesize": 10, "figure.facecolor": _PAPER, "font.sans-serif": ["DejaVu Sans"], "font.size": 9,
    "grid.color": _GRID, "legend.fontsize": 8, "legend.frameon": False, "legend.labelcolor": _INK,
    "savefig.facecolor": _PAPER, "svg.fonttype": "none", "svg.hashsalt": "unbackdoor", "text.color": _INK,
    "text.parse_math": False, "xtick.color": _SOFT, "ytick.color": _SOFT,
}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A value, its 95% interval, and the note that a reader sees on pointing at it."""

    x: float
    y: float
    interval: tuple[float, float]
    note: str


@dataclass(frozen=True)
class Line:
    """Points in the order in which they are joined."""

    name: str
    points: Sequence[Point]
    color: str
    dashed: bool = False


@dataclass(frozen=True)
class Guide:
    """A straight line across the chart: at a y, or upright at an x."""

    name: str
    at: float
    upright: bool = False


@dataclass(frozen=True)
class Dot:
    """A point of a scatter: `group` gives the color, `kind` the shape; bars reach `dx` and `dy` to both sides."""

    x: float
    y: float
    group: str
    kind: str
    dx: float = 0.0
    dy: float = 0.0


@contextmanager
def _style() -> Iterator[None]:
    """matplotlib's defaults and ours, for the time of one chart; what the caller has set is back afterwards."""
    import logging
    import warnings

    # It warns of letters that its font lacks (the reader's has them) and of maps that no contour crosses, and logs
    # where it keeps its list of fonts if the home folder cannot be written.
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        from matplotlib import style

        with style.context(["default", _SETTINGS]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


@_style()
def line_chart(title: str, lines: Sequence[Line], x_label: str, guides: Sequence[Guide] = (), log: bool = False) -> str:
    """SVG of rates in per cent over `x_label`. What is not finite is left out, and what is not positive if `log`."""
    figure, axes = _sheet(title, 6.4, 4.0)
    notes: list[str] = []
    names: dict[str, Any] = {}
    for line in lines:
        points = [p for p in line.points if _finite(p.x, p.y, *p.interval) and (p.x > 0 or not log)]
        xs, ys = [p.x for p in points], [p.y for p in points]
        low, high = zip(*(p.interval for p in points), strict=True) if points else ((), ())
        axes.vlines(xs, low, high, colors=line.color, linewidth=1.2, alpha=0.55)
        marker = "s" if line.dashed else "o"
        axes.plot(xs, ys, "--" if line.dashed else "-", color=line.color, linewidth=1.6)
        for point in points:
            axes.plot(point.x, point.y, marker, markersize=4, color=line.color, gid=_mark(notes, point.note))
        names[line.name] = axes.plot([], [], "--" if line.dashed else "-", marker=marker, ms=4, color=line.color)[0]
    for i, guide in enumerate(g for g in guides if _finite(g.at)):
        across = axes.axvline if guide.upright else axes.axhline
        color = _INK if guide.upright else _SOFT
        names[guide.name] = across(guide.at, color=color, linestyle=("--", ":", "-.")[i % 3], linewidth=1.2)
    axes.set(xlabel=x_label, ylabel="rate (%)", ylim=(-2, 102))
    if log:
        axes.set_xscale("log")
        axes.set_xticks(sorted({p.x for line in lines for p in line.points if _finite(p.x) and p.x > 0}))
        axes.minorticks_off()
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid()
    _legend(figure, names, loc="outside lower center", ncols=2)
    return _svg(figure, title, notes)


@_style()
def contour_map(
    axis: Sequence[float],
    values: NDArray[np.float64],
    title: str,
    path: Sequence[tuple[float, float]] = (),
) -> str:
    """SVG of ξ over α_c (across) and α_t (up), with the unit box in red and a cure's path.

    Args:
        axis: ascending coefficients of the lattice, two at least, the same both ways.
        values: (P, P) by α_c and α_t, in [0, 2]; what is not finite stays blank.
        title: of strangers, perhaps.
        path: (α_c, α_t) of a cure's stations, from the suspect on.
    """
    import matplotlib

    low, high = axis[0], axis[-1]
    figure, axes = _sheet(title, 6.4, 5.4)
    # matplotlib takes rows of y. Ever wider bands: equal steps of color are bands, not ξ.
    surface = np.clip(np.ma.masked_invalid(values.T), LEVELS[0], LEVELS[-1])
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 1, len(LEVELS) - 1))
    bands = axes.contourf(axis, axis, surface, levels=LEVELS, colors=colors)
    axes.contour(axis, axis, surface, levels=LEVELS[1:-1], colors="white", linewidths=0.6, alpha=0.6)
    notes: list[str] = []
    stations = [(a, b) for a, b in path if low <= a <= high and low <= b <= high]
    if stations:
        axes.plot(*zip(*stations, strict=True), color="black", linewidth=4, path_effects=[_cased(6)])
    # A cure's path begins along the box, which lies on it as a thinner line.
    if low <= 0 and high >= 1:
        axes.plot([0, 1, 1, 0, 0], [0, 0, 1, 1, 0], color=_BOX, linewidth=1.6, path_effects=[_cased(2.6)])
    for a, b in stations:
        note = f"path at α_c {a:.3g}, α_t {b:.3g}"
        axes.plot(a, b, "o", color="black", markeredgecolor="white", markersize=7, gid=_mark(notes, note))
    axes.set(xlabel="α_c (clean vector)", ylabel="α_t (trigger vector)", xlim=(low, high), ylim=(low, high))
    bar = figure.colorbar(bands, ax=axes, ticks=LEVELS, spacing="uniform", format="{x:g}")
    bar.set_label("ξ (0: the vectors leave each other alone; 2: at most)", labelpad=8)
    return _svg(figure, title, notes, _extent(surface))


@_style()
def scatter_chart(
    title: str, dots: Sequence[Dot], groups: Sequence[str], kinds: Sequence[str], x_label: str, y_label: str
) -> str:
    """SVG of dots on per cent by per cent; `groups` and `kinds` fix the order of colors and shapes, and the legend."""
    figure, axes = _sheet(title, 7.4, max(4.2, 1.4 + 0.19 * (len(groups) + len(kinds))), letters=44)
    colors = {group: COLORS[i % len(COLORS)] for i, group in enumerate(groups)}
    markers = {kind: _MARKERS[i % len(_MARKERS)] for i, kind in enumerate(kinds)}
    notes: list[str] = []
    for dot in dots:
        if _finite(dot.x, dot.y, dot.dx, dot.dy):
            color = colors[dot.group]
            axes.plot([dot.x - dot.dx, dot.x + dot.dx], [dot.y, dot.y], color=color, linewidth=1)
            axes.plot([dot.x, dot.x], [dot.y - dot.dy, dot.y + dot.dy], color=color, linewidth=1)
            note = f"{dot.kind}, {dot.group}: {x_label} {dot.x:.1f}, {y_label} {dot.y:.1f}"
            mark = markers[dot.kind]
            axes.plot(dot.x, dot.y, mark, color=color, markersize=7, alpha=0.85, gid=_mark(notes, note))
    axes.set(xlabel=x_label, ylabel=y_label, xlim=(-3, 103), ylim=(-3, 103))
    axes.grid()
    names = {group: axes.plot([], [], "o", color=color)[0] for group, color in colors.items()}
    # A data set may have the name of a defense.
    shapes = {f"{kind} (shape)": axes.plot([], [], m, color=_SOFT)[0] for kind, m in markers.items()}
    _legend(figure, names | shapes, loc="outside right upper")
    return _svg(figure, title, notes)


@_style()
def strip_chart(score: float, dots: Sequence[tuple[float, int]], x_label: str) -> str:
    """SVG of clean models' scores as dots, each with its place in a stack, and of a suspect's as an upright line."""
    title = f"Scores of {len(dots)} clean models, and of this model"
    figure, axes = _sheet(title, 7.4, 2.2)
    notes: list[str] = []
    for value, row in dots:
        if _finite(value):
            note = f"a clean model: {value:.2f}"
            axes.plot(value, row, "o", color=COLORS[0], markersize=6, alpha=0.75, gid=_mark(notes, note))
    names: dict[str, Any] = {"clean models": axes.plot([], [], "o", color=COLORS[0])[0]}
    if _finite(score):
        names["this model"] = axes.axvline(score, color=COLORS[1], linewidth=2.5)
    axes.set(xlabel=x_label, yticks=[], ylim=(-1, max(6, 1 + max((row for _, row in dots), default=0))))
    _legend(figure, names, loc="outside lower center", ncols=2)
    return _svg(figure, title, notes, f"this model: {score:.2f}")


def _sheet(title: str, width: float, height: float, letters: int = _TITLE) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set_axisbelow(True)
    axes.set_title("\n".join(_wrapped(title, letters, 3)))
    return figure, axes


def _mark(notes: list[str], note: str) -> str:
    """The id of the next mark, whose note is kept."""
    notes.append(one_line(note))
    return f"mark-{len(notes)}"


def _legend(figure: Figure, handles: dict[str, Any], **place: Any) -> None:
    # Names come after: matplotlib leaves out whatever begins with "_".
    legend = figure.legend(list(handles.values()), ["-"] * len(handles), **place)
    for text, name in zip(legend.get_texts(), handles, strict=True):
        text.set_text(_short(name))


def _short(text: str) -> str:
    return "".join(_wrapped(text, _NAME, 1))


def _wrapped(text: str, width: float, most: int) -> list[str]:
    """At most `most` lines, broken at spaces where there are any; what does not fit is left out."""
    rest = terminal(text).strip()
    lines: list[str] = []
    while rest:
        end, taken = 0, 0.0
        while end < len(rest) and taken + _width(rest[end]) <= width:
            taken += _width(rest[end])
            end += 1
        if end < len(rest) and len(lines) + 1 == most:
            return [*lines, rest[: end - 1] + "…"]
        if end < len(rest) and rest.rfind(" ", 0, end + 1) > 0:
            end = rest.rfind(" ", 0, end + 1)
        lines.append(rest[:end])
        rest = rest[end:].strip()
    return lines


def _width(letter: str) -> float:
    """Roughly, against letters of common width: no font need be measured, and the reader's is another one."""
    if east_asian_width(letter) in "WF":
        return 2.0
    return 1.6 if letter in "MW@%mw—…" else 1.2 if letter.isupper() else 1.0


def _finite(*values: float) -> bool:
    return all(math.isfinite(value) for value in values)


def _cased(width: float) -> Any:
    """A white line under a line, that it is seen on any color."""
    from matplotlib.patheffects import withStroke

    return withStroke(linewidth=width, foreground="white")


def _extent(surface: Any) -> str:
    if surface.count() == 0:
        return "ξ is not known anywhere"
    return f"ξ lies between {surface.min():.3g} and {surface.max():.3g}"


def _svg(figure: Figure, title: str, notes: Sequence[str], summary: str = "") -> str:
    """The drawing as text, with its name and a description for readers who cannot see it, and a note on every mark."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    # An HTML page has no place for the XML declaration and the document type; a file can do without.
    text = buffer.getvalue()
    description = "; ".join([summary, *notes] if summary else notes)
    head, end, body = text[text.index("<svg") :].partition(">")
    for i, note in enumerate(notes):
        group = f'<g id="mark-{i + 1}">'
        body = body.replace(group, f"{group}<title>{_plain(note)}</title>", 1)
    dark = "".join(
        f'[style*="{kind}: {light}"]{{{kind}:{color} !important}}'
        for light, color in _DARK.items()
        for kind in ("fill", "stroke")
    )
    return (
        f'{head} role="img" aria-label="{_plain(one_line(title))}"{end}\n <desc>{_plain(description)}</desc>\n'
        f" <style>@media (prefers-color-scheme: dark){{{dark}}}</style>{body}"
    )


def _plain(text: str) -> str:
    return escape(terminal(text))
