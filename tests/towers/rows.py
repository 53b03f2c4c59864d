"""Rows in processes of their own, with limits on time and memory, kept in a journal so that a killed run resumes."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from tests.towers.families import TOWERS, Tower, key
from tests.towers.folders import known_text_tower
from tests.towers.steps import STEPS, Room
from unbackdoor import InputError
from unbackdoor.base import journal

ROOT = Path(__file__).parent.parent.parent
LIBRARIES = ("torch", "open_clip_torch", "timm", "transformers")
YES, REFUSED, FAILED = "yes", "refused", "failed"


@dataclass(frozen=True)
class Cell:
    """What came of one step: `yes`, `refused` by the tool in one line, or `failed`, which is a fault of ours."""

    outcome: str
    message: str = ""


@dataclass(frozen=True)
class Row:
    """A family and its cells.

    Args:
        name: see `families.key`.
        full: in full size.
        identity: of everything that decides on the cells, see `identity`.
        cells: step → what came of it.
    """

    name: str
    full: bool
    identity: str
    cells: dict[str, Cell]

    @property
    def failed(self) -> list[str]:
        """Steps that are a fault of ours."""
        return [f"{step}: {cell.message}" for step, cell in self.cells.items() if cell.outcome == FAILED]


@dataclass(frozen=True)
class Limits:
    """Of one row: seconds of wall time, and bytes of memory where the system can bound it."""

    seconds: float
    memory: int


SMALL, LARGE = Limits(600, 8 << 30), Limits(1800, 16 << 30)


def versions() -> dict[str, str]:
    """Of the libraries that build the towers; without what names a build, as in `2.9.0+cpu`."""
    return {name: version(name).partition("+")[0] for name in LIBRARIES}


def identity() -> str:
    """Hash of the tool's sources, of what a row does, and of the libraries' versions."""
    digest = hashlib.sha256(repr(versions()).encode())
    own = [ROOT / "tests" / part for part in ("clip/families.py", *(f"towers/{n}.py" for n in _DECIDE))]
    for path in [*sorted((ROOT / "src" / "unbackdoor").glob("**/*.py")), *own]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


_DECIDE = ("families", "folders", "steps")


def run_steps(tower: Tower, place: Path, steps: Iterable[str], *, full: bool = False) -> dict[str, Cell]:
    """Write the model's folder into `place` and take it through the steps, in this process."""
    cells: dict[str, Cell] = {}
    name, small = tower.text_tower
    with known_text_tower(name, None if full else small):
        source = place / "model"
        tower.write(source, full)
        room = Room(tower.library, source, place)
        for step in steps:
            cells[step] = _try(step, room)
    return cells


def _try(step: str, room: Room) -> Cell:
    try:
        STEPS[step](room)
    except InputError as error:
        told = str(error).replace(str(room.source), "MODEL").replace(str(room.place), "OUT")
        return Cell(REFUSED, told)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return Cell(FAILED, f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})")
    return Cell(YES)


def rows(towers: Sequence[Tower], steps: Sequence[str], log: Path, *, full: bool = False) -> list[Row]:
    """The rows of these families; finished ones are taken from the journal."""
    now, context = identity(), multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    import open_clip  # noqa: F401 - once, before processes part
    import transformers  # noqa: F401

    kept = {(r.name, r.full): r for r in journal.read(log, Row) if r.identity == now and set(steps) <= set(r.cells)}
    found = []
    for tower in towers:
        row = kept.get((key(tower), full))
        if row is None:
            row = Row(key(tower), full, now, _apart(tower, steps, full, context))
            if not row.failed:  # a fault is to be mended and tried again
                journal.append(log, asdict(row))
        print(f"{row.name:55} {_line(row.cells, steps)}", flush=True)
        found.append(row)
    return found


def _line(cells: Mapping[str, Cell], steps: Sequence[str]) -> str:
    told: dict[str, list[str]] = {}
    for step in steps:
        if cells[step].outcome != YES:
            told.setdefault(f"{cells[step].outcome}: {cells[step].message[:160]}", []).append(step)
    yes = sum(cells[step].outcome == YES for step in steps)
    return "; ".join([f"{yes} yes", *(f"{', '.join(names)} {message}" for message, names in told.items())])


def _apart(tower: Tower, steps: Sequence[str], full: bool, context: Any) -> dict[str, Cell]:
    limits = LARGE if full else SMALL
    here, there = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="towers-") as place:
        process = context.Process(target=_child, args=(key(tower), steps, full, Path(place), limits.memory, there))
        process.start()
        there.close()
        try:
            told = here.recv() if here.poll(limits.seconds) else f"no end after {limits.seconds:.0f} s"
        except EOFError:
            told = "its process ended without a word, as where memory runs out"
        process.kill()
        process.join()
    return told if isinstance(told, dict) else {step: Cell(FAILED, str(told)) for step in steps}


def _child(name: str, steps: Sequence[str], full: bool, place: Path, memory: int, there: Connection) -> None:
    import transformers

    _bound(memory)
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    tower = next(t for t in TOWERS if key(t) == name)
    try:
        there.send(run_steps(tower, place, steps, full=full))
    except Exception as error:
        there.send(f"{type(error).__name__}: {error}")


def _bound(memory: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
