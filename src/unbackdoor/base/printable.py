"""Text of strangers made fit for where it goes: a terminal, Markdown, LaTeX, CSV. HTML is escaped by Jinja."""

from __future__ import annotations

_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}  # fmt: skip
_MARKDOWN = set("\\`*_[]<>|#~&")
_LONGEST, _END = 600, 200  # characters of a line; its end says what to do
# What spreadsheets take for the beginning of a formula (OWASP, "CSV injection").
_FORMULA = ("=", "+", "-", "@")


def terminal(text: str) -> str:
    """One line without control characters, terminal codes and marks that turn the direction of writing."""
    return "".join(c if c.isprintable() else " " for c in text)


def one_line(text: str) -> str:
    """As `terminal`, of at most 600 characters; where there are more, the middle is left out."""
    plain = terminal(text)
    return plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST - _END - 3]} … {plain[-_END:]}"


def markdown(text: str) -> str:
    """A piece of a line or of a table's cell that stays the text that it is."""
    return "".join(f"\\{c}" if c in _MARKDOWN else c for c in terminal(text))


def latex(text: str) -> str:
    """A piece of text for LaTeX."""
    return "".join(_LATEX.get(c, c) for c in terminal(text))


def csv_cell(text: str) -> str:
    """A cell that no spreadsheet takes for a formula; the `csv` module quotes the rest."""
    plain = terminal(text)
    return f"'{plain}" if plain.lstrip().startswith(_FORMULA) else plain
