"""`bench`: a grid of attacks and defences from one recipe, cell by cell, and its tables."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from unbackdoor.base.disk import write_text
from unbackdoor.base.errors import InputError
from unbackdoor.base.manifest import Manifest, write_jsonl
from unbackdoor.base.notices import warn
from unbackdoor.base.printable import terminal
from unbackdoor.base.progress import Step, announce
from unbackdoor.base.untrusted import read_text
from unbackdoor.bench.engine import ENGINES
from unbackdoor.bench.grid import asks_for, collect, narrow, plan, run_grid
from unbackdoor.bench.recipe import Grid, read_recipe
from unbackdoor.bench.scatter import scatters
from unbackdoor.bench.store import address
from unbackdoor.bench.tables import as_csv, as_latex, as_markdown
from unbackdoor.clip.handle import Clip
from unbackdoor.runs.case import Case, open_model, open_referred
from unbackdoor.runs.result import numbers
from unbackdoor.runs.run import Run, check_verb, resumable, weights_hash
from unbackdoor.runs.verb import verb
from unbackdoor.verbs.configs.grids import BENCH, GridConfig
from unbackdoor.verbs.results import GridResult


@verb(BENCH)
def bench(case: Case, config: GridConfig, run: Run) -> GridResult:
    """Plant every attack of a recipe, cure each with every defence, and tabulate.

    Cells are addressed by a hash over their whole configuration and kept under `out`; finished ones are not run again,
    and two recipes that share cells may share the folder. Writes `results.jsonl` (one line per finished cell),
    `tables.md`, `tables.csv`, `tables.tex`, `scatter-ATTACK.svg` and `manifest.json`.

    Returns:
        Counts, the reasons of failed cells, and the paths of the tables.

    Raises:
        InputError: a recipe or engine that cannot be used, or a grid already running in `out`.
    """
    if config.engine not in ENGINES:
        raise InputError(f"engine {config.engine!r} is none of {', '.join(ENGINES)}")
    out, path = run.folder, Path(config.recipe)
    grid = read_recipe(path, None if config.data_root is None else Path(config.data_root), online=config.online)
    hashes = _hashes(grid, config)
    cells = plan(replace(grid, models={name: grid.models[name] for name in hashes}), hashes)
    chosen = narrow(cells, config.only)
    manifest = Manifest("bench", {"recipe": read_text(path), "engine": config.engine, "workers": config.workers})
    manifest.hashes.update({f"weights of {name}": value for name, value in hashes.items()})
    errors: dict[str, str] = {}
    with grid_folder(out, "bench", alone=not config.dry_run):
        if not config.dry_run:
            errors = run_grid(chosen, out, lambda: ENGINES[config.engine](out, case.device, config.workers), tell)
        state = collect(cells, out, errors)
        write_jsonl(out / "results.jsonl", state.rows)
        write_text(out / "tables.md", as_markdown(state.rows))
        write_text(out / "tables.csv", as_csv(state.rows))
        write_text(out / "tables.tex", as_latex(state.rows))
        for attack, svg in scatters(state.rows).items():
            write_text(out / f"scatter-{attack}.svg", svg)
        manifest.notes.update(finished=len(state.rows), failed=state.failed, missing=len(state.missing))
        manifest.write(out)
    return GridResult(
        recipe=str(config.recipe),
        cells=sum(1 + len(own) for _, own in cells),
        finished=len(state.rows),
        failed=tuple(state.failed),
        missing=tuple(state.missing),
        tables=str(out / "tables.md"),
        results=str(out / "results.jsonl"),
        addresses=len({address(cell["config"]) for s, own in cells for cell in (s, *own)}),
        seconds=round(manifest.seconds, 2),
    )


def _hashes(grid: Grid, config: GridConfig) -> dict[str, str]:
    """Of the models' weights. One that is not asked for and not there is left out, with its cells.

    Raises:
        InputError: one that is asked for cannot be opened, or none can.
    """
    hashes: dict[str, str] = {}
    for number, (name, reference) in enumerate(grid.models.items(), 1):
        try:
            hashes[name] = weights_hash(recipe_model(reference, config.online))
        except InputError as error:
            if asks_for(config.only, "model", name) or (number == len(grid.models) and not hashes):
                raise
            warn(f"model {name} is not asked for and cannot be opened, so the tables lack its cells: {error}")
    return hashes


def recipe_model(reference: str, online: bool) -> Clip:
    """The model that a recipe names, on the CPU; one that lies on the network only where that is wanted.

    Raises:
        InputError: there is none.
    """
    if online or reference.startswith("random:"):
        return open_model(reference, None, "cpu")
    return open_referred(reference, "the recipe", "give --online where you trust the recipe", "cpu")


@contextmanager
def grid_folder(out: Path, verb: str, *, alone: bool) -> Iterator[None]:
    """The output folder; `alone` refuses a second grid in it, with a lock that dies with the process.

    Looking at a grid while it runs needs no lock: tables are written to a temporary name and renamed.
    """
    check_verb(out, verb)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w") if alone else None
    except OSError as error:
        raise InputError(f"{out}: cannot be used as an output folder ({error.strerror})") from None
    if lock is None:
        yield
        return
    with lock, resumable():
        if not _locked(lock):
            raise InputError(f"{out}: another grid is running there; wait for it, or name another folder")
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _locked(file: TextIO) -> bool:
    """Lock it for this process, until that ends; False where another holds it."""
    try:
        import fcntl
    except ImportError:  # Windows, where a region of bytes is locked, far behind what is written
        import msvcrt

        file.seek(1 << 20)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            return False
        file.seek(0)
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def tell(cell: dict[str, Any], done: int, total: int) -> None:
    """One line per cell on stderr, and its rates for whoever asks."""
    names = [str(v) for v in cell["names"].values()]
    if cell["config"]["kind"] not in ("suspect", "cure"):  # cells that share their names with these
        names.append(cell["config"]["kind"])
    if cell["error"] is not None:
        text = f"FAILED: {cell['error']}"
    else:
        after = cell["result"].get("after", {})
        rates = " ".join(f"{k.upper()} {after[k]['value']:.1%}" for k in ("ca", "asr") if k in after)
        text = f"{rates} ({cell['result']['wall_seconds']:.0f} s)"
    print(terminal(f"[{done}/{total}] {' · '.join(names)}: {text}"), file=sys.stderr, flush=True)
    measured = {} if cell["error"] is not None else numbers(cell["result"].get("after", {}))
    announce(Step("/".join(names), done, total, measured=measured))
