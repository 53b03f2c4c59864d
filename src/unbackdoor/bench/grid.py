"""Walking a grid: suspects first, each followed by its cures; finished cells are read, failing ones reported."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unbackdoor.base.errors import InputError
from unbackdoor.bench.engine import Engine
from unbackdoor.bench.recipe import CLEAN, Grid, Json, cures, suspects, yardsticks
from unbackdoor.bench.store import address, read_result


@dataclass
class GridRun:
    """What became of every cell.

    Args:
        rows: finished cells, in the recipe's order: names beside results.
        failed: cells that failed, or whose suspect did, with the reason.
        missing: cells that were not run.
    """

    rows: list[Json] = field(default_factory=list)
    failed: list[Json] = field(default_factory=list)
    missing: list[Json] = field(default_factory=list)


def plan(grid: Grid, hashes: dict[str, str]) -> list[tuple[Json, list[Json]]]:
    """Every suspect, in order, with what follows it: its cures, or where there is no attack the attacks' yardsticks."""
    every = suspects(grid, hashes)
    return [(s, yardsticks(s, every) if s["names"]["attack"] == CLEAN else cures(grid, s)) for s in every]


def narrow(cells: list[tuple[Json, list[Json]]], only: Sequence[str]) -> list[tuple[Json, list[Json]]]:
    """The cells that every `KEY=VALUE,VALUE` lets through, by their names; a cure comes with its suspect.

    Raises:
        InputError: not of that form, or a key or value that no cell has.
    """
    for text in only:
        key, wanted = _wish(text)
        known = {str(c["names"][key]) for s, own in cells for c in (s, *own) if key in c["names"]}
        if not known or not wanted:
            keys = dict.fromkeys(k for s, own in cells for c in (s, *own) for k in c["names"])
            raise InputError(f"only {text!r}: write KEY=VALUE, KEY one of {', '.join(keys)}")
        if wanted - known:
            raise InputError(f"only {text!r}: no {key} {min(wanted - known)!r}; there are {', '.join(sorted(known))}")
        cells = [
            (suspect, [c for c in own if key not in c["names"] or str(c["names"][key]) in wanted])
            for suspect, own in cells
            if key not in suspect["names"] or str(suspect["names"][key]) in wanted
        ]
    return cells


def asks_for(only: Sequence[str], key: str, name: str) -> bool:
    """Whether every `KEY=VALUE,VALUE` of this key lets a name through."""
    return all(name in wanted for wish, wanted in map(_wish, only) if wish == key)


def _wish(text: str) -> tuple[str, set[str]]:
    key, _, values = text.partition("=")
    wanted = {v.strip() for v in values.split(",") if v.strip()}
    return ("defence" if key == "defense" else key), wanted  # as rows of results call it


def run_grid(
    cells: list[tuple[Json, list[Json]]],
    out: Path,
    engine: Callable[[], Engine],
    report: Callable[[Json, int, int], None],
) -> dict[str, str]:
    """Run what is not finished.

    Args:
        cells: from `plan`.
        engine: opened only when there is something to run.
        report: (cell with its result or error, done, total) after each.

    Returns:
        Reason by address of each cell that failed.
    """
    cures_of = {address(s["config"]): c for s, c in cells}
    waiting: deque[Json] = deque()
    queued: set[str] = set()
    todo = 0

    def enqueue(cell: Json, first: bool) -> None:
        nonlocal todo
        key = address(cell["config"])
        if key in queued:
            return
        queued.add(key)
        todo += 1
        (waiting.appendleft if first else waiting.append)(cell)

    for suspect, own in cells:
        if read_result(out, suspect["config"]) is None:
            enqueue(suspect, first=False)
            continue
        for cure in own:
            if read_result(out, cure["config"]) is None:
                enqueue(cure, first=False)
    later = sum(len(own) for s, own in cells if address(s["config"]) in queued)
    errors: dict[str, str] = {}
    if not waiting:
        return errors
    machine = engine()
    running: dict[Any, Json] = {}
    done = 0
    try:
        while waiting or running:
            while waiting and len(running) < machine.slots:
                cell = waiting.popleft()
                running[machine.submit(cell["config"])] = cell
            handle, (result, error) = machine.next_done(list(running))
            cell = running.pop(handle)
            done += 1
            key = address(cell["config"])
            if error is not None:
                errors[key] = error
            if key in cures_of:
                own = cures_of[key]
                later -= len(own)
                if error is None:
                    # Before other suspects, so that the first rows of the table come early; in the recipe's order.
                    for cure in reversed(own):
                        enqueue(cure, first=True)
            report({**cell, "result": result, "error": error}, done, todo + later)
    finally:
        machine.close()
    return errors


def collect(cells: list[tuple[Json, list[Json]]], out: Path, errors: dict[str, str]) -> GridRun:
    """Read every finished cell back; a cure's row holds its attack's yardstick, where that is finished."""
    outcome = GridRun()
    for suspect, own in cells:
        broken = errors.get(address(suspect["config"]))
        for cell in (suspect, *own):
            result = read_result(out, cell["config"])
            row = {**cell["names"], "kind": cell["config"]["kind"]}
            error = errors.get(address(cell["config"])) or (f"its suspect failed: {broken}" if broken else None)
            if result is not None:
                outcome.rows.append({**row, **result})
            elif error is not None:
                outcome.failed.append({**row, "error": error})
            else:
                outcome.missing.append(row)
    places = ("model", "data", "attack", "seed")
    yardstick = {tuple(r[p] for p in places): r["after"] for r in outcome.rows if r["kind"] == "yardstick"}
    for row in outcome.rows:
        measure = yardstick.get(tuple(row[p] for p in places))
        if row["kind"] == "cure" and measure is not None:
            row["yardstick"] = measure
    return outcome
