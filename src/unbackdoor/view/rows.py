"""The runs below a folder, one row each. Whatever their files say is a stranger's text."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unbackdoor.base.errors import InputError
from unbackdoor.base.printable import terminal
from unbackdoor.base.untrusted import read_json

RESULTS = ("result.json", "finding.json", "surface.json", "location.json")
MANIFEST, REPORT = "manifest.json", "report.html"
MOST_ROWS, MOST_ENTRIES, DEEPEST = 2000, 200_000, 12
LARGEST = 4 << 20  # bytes of a file that a row is made of
BROKEN = "broken"
_LONGEST = 160  # characters of a cell
_LONG_VALUE = re.compile(r"(=[^,]{24})[^,]+")
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
# Of several models the row says the worst verdict of `vet`.
_WORST = ("backdoored", "unsafe", "error", "cannot-tell", "cured", "clean")
_ANSWERS = {True: "backdoored", False: "no finding", None: "cannot tell"}

Signature = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True)
class Row:
    """A run.

    Args:
        place: its folder's path below the folder that is served, "" for that one itself.
        verdict: a word or two; `broken` where its files cannot be read.
        date: when it began, in UTC.
        report: whether it left a page.
        problem: why it cannot be read.
    """

    place: str
    verb: str = ""
    model: str = ""
    trigger: str = ""
    verdict: str = ""
    date: str = ""
    report: bool = False
    problem: str = ""


class Runs:
    """The runs below a folder; what has not changed since it was read is not read again."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._known: dict[Path, tuple[Signature, Row]] = {}

    def rows(self) -> tuple[list[Row], bool]:
        """The latest first, and whether all of them are there: the walk ends after `MOST_ENTRIES` names."""
        rows: list[Row] = []
        whole = True
        budget = _Budget(MOST_ENTRIES)
        for folder, names in _folders(self.root, budget):
            result = next((name for name in RESULTS if name in names), None)
            if result is None or MANIFEST not in names:
                continue
            if len(rows) == MOST_ROWS:
                whole = False
                break
            rows.append(self._row(folder, result, REPORT in names))
        return sorted(rows, key=lambda row: (row.date, row.place), reverse=True), whole and budget.left > 0

    def _row(self, folder: Path, result: str, report: bool) -> Row:
        signature = _signature(folder, (result, MANIFEST, *([REPORT] if report else [])))
        known = self._known.get(folder)
        if known is None or known[0] != signature:
            known = self._known[folder] = (signature, read_row(self.root, folder, result, report))
        return known[1]


def read_row(root: Path, folder: Path, result: str, report: bool) -> Row:
    """The row of one run; a run whose files cannot be read is a row that says so.

    Args:
        root: folder that the files must lie in, links followed.
        result: name of the run's result.
    """
    place = "" if folder == root else folder.relative_to(root).as_posix()
    try:
        outcome = read_json(folder / result, LARGEST, inside=root)
        manifest = read_json(folder / MANIFEST, LARGEST, inside=root)
    except InputError as error:
        problem = str(error).replace(f"{folder}{os.sep}", "").replace(str(root), "the folder")
        return Row(place, verdict=BROKEN, report=report, problem=_cell(problem))
    date = manifest.get("started")
    return Row(
        place,
        verb=_cell(outcome.get("verb") or manifest.get("verb")),
        model=_cell(_model(outcome)),
        trigger=_cell(_short(_trigger(outcome))),
        verdict=_cell(verdict_of(outcome)),
        date=date if isinstance(date, str) and _DATE.fullmatch(date) else "",
        report=report,
    )


def verdict_of(result: Mapping[str, Any]) -> str:
    """What a run came to, in a word or two: its key `verdict` where it has one, else made of what its verb returns."""
    if isinstance(result.get("verdict"), str):
        return str(result["verdict"])
    if _models(result):
        verdicts = [row.get("verdict") for row in _models(result)]
        return next((verdict for verdict in _WORST if verdict in verdicts), "unreadable")
    if "backdoored" in result:
        answer = result["backdoored"]
        return _ANSWERS[answer] if answer is None or isinstance(answer, bool) else "unreadable"
    if "quiet" in result:
        return "cured" if result["quiet"] is True else "not cured"
    if "nothing_to_remove" in result:
        if result["nothing_to_remove"] is True:
            return "nothing to remove"
        after, tolerance = result.get("after"), result.get("tolerance")
        rate = after.get("asr") if isinstance(after, dict) else None
        if not isinstance(rate, int | float) or not isinstance(tolerance, int | float):
            return "not measured"
        # Twice the tolerance on other images than α was chosen on, as the report has it.
        return "cured" if rate <= 2 * tolerance else "not cured"
    return "planted" if result.get("verb") == "poison" else "done"


def _trigger(result: Mapping[str, Any]) -> Any:
    rounds = result.get("rounds")
    holder = rounds[0] if isinstance(rounds, list) and rounds and isinstance(rounds[0], dict) else result
    trigger = holder.get("trigger")
    return trigger.get("spec") if isinstance(trigger, dict) else trigger


def _short(spec: Any) -> Any:
    """A spec whose long values, such as the pixels of a recovered trigger, are cut."""
    return _LONG_VALUE.sub(r"\1…", spec) if isinstance(spec, str) else spec


def _model(result: Mapping[str, Any]) -> Any:
    models = _models(result)
    if len(models) > 1:
        return f"{len(models)} models"
    holder = models[0] if models else result
    return next((holder[key] for key in ("model_reference", "model") if isinstance(holder.get(key), str)), "")


def _models(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of a run over several models, as `vet`: its rows."""
    models = result.get("models")
    return [row for row in models if isinstance(row, dict)] if isinstance(models, list) else []


def _cell(value: Any) -> str:
    """A stranger's value as one short printable line; what is no text is empty."""
    text = terminal(value).strip() if isinstance(value, str) else ""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _signature(folder: Path, names: tuple[str, ...]) -> Signature:
    parts = []
    for name in names:
        try:
            status = (folder / name).stat()
            parts.append((name, status.st_size, status.st_mtime_ns, status.st_ino))
        except OSError:
            parts.append((name, -1, 0, 0))
    return tuple(parts)


@dataclass
class _Budget:
    left: int


def _folders(root: Path, budget: _Budget) -> Iterator[tuple[Path, set[str]]]:
    """Every folder with the names of its files; hidden ones and links to folders are passed over."""
    waiting = [(root, 0)]
    while waiting:
        folder, depth = waiting.pop()
        names, inner = set(), []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    budget.left -= 1
                    if budget.left <= 0:
                        return
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        inner.append(Path(entry.path))
                    else:
                        names.add(entry.name)
        except OSError:  # gone in the meantime, or not ours to read
            continue
        if depth < DEEPEST:
            waiting += [(path, depth + 1) for path in sorted(inner, reverse=True)]
        yield folder, names
