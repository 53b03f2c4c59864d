"""The index of runs and the list of a folder's files as HTML without scripts; whatever comes from files is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from unbackdoor.base.printable import terminal
from unbackdoor.view.places import address_of
from unbackdoor.view.rows import BROKEN, REPORT, Row

STYLE_ADDRESS = "/.view/style.css"  # hidden names are never files of the folder
STYLE = """\
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
form { display: flex; flex-wrap: wrap; gap: 0.5rem 1rem; align-items: end; margin: 1rem 0; }
label { display: grid; gap: 0.2rem; }
input, select, button { font: inherit; padding: 0.3rem 0.5rem; }
div { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 0.4rem 0.8rem 0.4rem 0; border-bottom: 1px solid GrayText; }
td { min-width: 6.5rem; overflow-wrap: break-word; }
td:nth-child(3), td:nth-child(4) { overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class Filter:
    """What rows are asked for: parts of a model's name and of a trigger, and a verdict; empty asks for all."""

    model: str = ""
    trigger: str = ""
    verdict: str = ""

    def passes(self, row: Row) -> bool:
        """Whether a row is one of them."""
        return (
            self.model.casefold() in row.model.casefold()
            and self.trigger.casefold() in row.trigger.casefold()
            and self.verdict in ("", row.verdict)
        )


def index_page(title: str, rows: Sequence[Row], wanted: Filter, whole: bool) -> str:
    """The page of all runs that the filter lets through.

    Args:
        title: the folder's name.
        whole: the rows are all runs that there are.
    """
    kept = [row for row in rows if wanted.passes(row)]
    verdicts = sorted({row.verdict for row in rows} | {wanted.verdict} - {""})
    options = "".join(
        f'<option value="{escape(verdict)}"{" selected" if verdict == wanted.verdict else ""}>'
        f"{escape(verdict) or 'any'}</option>"
        for verdict in ["", *verdicts]
    )
    fields = "".join(
        f'<label for="{name}">{label}<input id="{name}" name="{name}" value="{escape(value)}"></label>'
        for name, label, value in (("model", "Model", wanted.model), ("trigger", "Trigger", wanted.trigger))
    )
    note = "" if whole else "<p>This folder holds more than is listed here; serve a folder below it.</p>"
    body = (
        f'<form method="get" action="/">{fields}<label for="verdict">Verdict'
        f'<select id="verdict" name="verdict">{options}</select></label>'
        f'<button>Filter</button> <a href="/">all</a></form>{note}'
        f"<p>{len(kept)} of {len(rows)} runs</p>{_table(kept) if kept else ''}"
    )
    return _page(f"Runs in {title}", body)


def folder_page(title: str, place: str, entries: Sequence[tuple[str, int | None]], whole: bool) -> str:
    """The page of one folder.

    Args:
        place: its path below the folder that is served.
        entries: names with their bytes; None for a folder.
        whole: the entries are all that there are.
    """
    rows = "".join(
        f'<tr><td><a href="{escape(address_of(name))}{"/" if size is None else ""}">{_text(name)}</a></td>'
        f"<td>{'folder' if size is None else f'{size:,} bytes'}</td></tr>"
        for name, size in entries
    )
    note = "" if whole else "<p>The folder holds more files than are listed here.</p>"
    head = '<tr><th scope="col">File</th><th scope="col">Size</th></tr>'
    table = f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"
    return _page(f"{title}/{place}", f'<p><a href="/">All runs</a></p>{note}<div>{table}</div>')


def _table(rows: Sequence[Row]) -> str:
    heads = ("Began", "Command", "Model", "Trigger", "Verdict", "Report", "Files")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return (
        f"<div><table><caption>The latest first</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(_row(row) for row in rows)}</tbody></table></div>"
    )


def _row(row: Row) -> str:
    folder = f"/{address_of(row.place)}/" if row.place else "/"
    report = f'<a href="{escape(folder + REPORT)}">report</a>' if row.report else "–"
    files = f'<a href="{escape(folder if row.place else "/?files=1")}">{_text(row.place or ".")}</a>'
    verdict = _text(row.verdict) + (f"<br><small>{_text(row.problem)}</small>" if row.verdict == BROKEN else "")
    texts = (row.date.replace("T", " ").replace("Z", " UTC"), row.verb, row.model, row.trigger)
    cells = [*(_text(text) or "–" for text in texts), verdict, report, files]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _text(text: str) -> str:
    return escape(terminal(text))


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{_text(title)}</title><link rel="icon" href="data:,"><link rel="stylesheet" href="{STYLE_ADDRESS}">'
        f"</head><body><main><h1>{_text(title)}</h1>{body}</main></body></html>\n"
    )
