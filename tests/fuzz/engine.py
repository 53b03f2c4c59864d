"""The fuzzer: changes inputs, feeds them to one target after the other, keeps what tells something new.

A target's reader takes bytes, and returns a few words on what it made of them or raises `InputError` in one printable
line. Everything else is a crash: another exception, more than a minute, more than 2 GB, the end of the process. All
targets run in a child process that works through them in turns; the parent watches it, keeps what killed it, and
starts another. An input is kept if its outcome is new (taken, or refused with a message of another shape), or if it
reaches lines that none before it reached, which is looked at for a share of the inputs only since it is slow.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import re
import select
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.fuzz.mutate import Mutator
from unbackdoor.base.errors import InputError
from unbackdoor.base.notices import collected

Reader = Callable[[bytes], str]
LONGEST_LINE = 600  # characters
MOST_SECONDS, MOST_BYTES = 60.0, 2 << 30
_TURN = (0.5, 5.0)  # seconds of a target's turn, so that all have three at least where time allows
_TRACED = 0.04  # share of the inputs whose lines are looked at
_MOST_KEPT = 400  # inputs of a target
_ROOT = Path(__file__).parents[2]
_SOURCES = str(_ROOT / "src" / "unbackdoor")
CRASHES = "crashes"


@dataclass(frozen=True)
class Target:
    """One kind of file.

    Args:
        name: also of its folder in the corpus.
        mutate: changes an input.
        seeds: sound inputs, made by our own code or by the format's library.
        prepare: makes what lies beside the file in a folder of its own, and returns the reader.
    """

    name: str
    mutate: Mutator
    seeds: Callable[[], list[bytes]]
    prepare: Callable[[Path], Reader]


class UnfitError(Exception):
    """An `InputError` or a warning whose text is no printable line of bearable length."""


def on_file(path: Path, use: Callable[[], str]) -> Reader:
    """A reader that looks at the file which holds its input."""

    def read(data: bytes) -> str:
        path.write_bytes(data)
        return use()

    return read


def outcome(read: Reader, data: bytes, room: Path) -> str:
    """Shape of what comes of an input; whatever is no refusal of ours is raised."""
    try:
        with collected() as lines:
            shape = f"taken {read(data)}"
    except InputError as error:
        _check_line(str(error))
        return f"refused {_shape(str(error), room)}"
    for line in lines:
        _check_line(line)
    return f"{shape} {' '.join(_shape(line, room) for line in lines)}"


def _check_line(text: str) -> None:
    if not text or not text.isprintable():
        raise UnfitError(f"no printable line: {text[:200]!r}")
    if len(text) > LONGEST_LINE:
        raise UnfitError(f"a line of {len(text)} characters: {text[:200]!r}")


def _shape(text: str, room: Path) -> str:
    """What of a message the input does not decide: its plain words."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"|\([^)]*\)?", " ", text.replace(str(room), ""))
    return " ".join(re.findall(r"(?<![\w.])[a-z]{2,12}(?![\w.])", text)[:10])


@dataclass
class Course:
    """A target at work in the child."""

    target: Target
    read: Reader
    room: Path
    folder: Path
    most: float = MOST_SECONDS
    pool: list[bytes] = field(default_factory=list)
    shapes: set[str] = field(default_factory=set)
    lines: set[tuple[Any, int]] = field(default_factory=set)
    crashes: set[str] = field(default_factory=set)
    runs: int = 0
    slowest: float = 0.0

    def begin(self, note: Callable[[bytes], None]) -> None:
        """Run the seeds and the corpus."""
        for data in [*self.target.seeds(), *stored(self.folder)]:
            note(data)
            self.once(data, trace=True, keep=False)
            self.pool.append(data)

    def turn(self, rng: random.Random, seconds: float, note: Callable[[bytes], None]) -> None:
        """Change and run inputs for so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            data = self.target.mutate(rng.choice(self.pool), rng, self.pool)
            while rng.random() < 0.2:
                data = self.target.mutate(data, rng, self.pool)
            note(data)
            self.once(data, trace=rng.random() < _TRACED, keep=True)

    def once(self, data: bytes, *, trace: bool, keep: bool) -> None:
        """Run one input; what is new is kept, a crash stored."""
        began, before = time.monotonic(), _memory()
        lines: set[tuple[Any, int]] = set()
        try:
            if trace:
                sys.settrace(_tracer(lines))
            try:
                shape = outcome(self.read, data, self.room)
            finally:
                sys.settrace(None)
            if _memory() - before > MOST_BYTES:
                raise UnfitError("more than 2 GB of memory")
            if time.monotonic() - began > self.most:
                raise UnfitError(f"more than {self.most:.0f} s")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a panic of a library in Rust is no Exception
            self._crash(data, error)
            return
        finally:
            self.runs += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
        new = shape not in self.shapes or not lines <= self.lines
        self.shapes.add(shape)
        self.lines |= lines
        if keep and new and len(self.pool) < _MOST_KEPT:
            self.pool.append(data)
            keep_input(self.folder, data)

    def _crash(self, data: bytes, error: BaseException) -> None:
        place = next(
            (f"{Path(f.filename).name}:{f.name}" for f in reversed(traceback.extract_tb(error.__traceback__))
             if f.filename.startswith(_SOURCES)), ""
        )  # fmt: skip
        key = f"{type(error).__name__} in {place}"
        if key not in self.crashes:
            self.crashes.add(key)
            store_crash(self.folder.parent, self.target.name, data, f"{key}: {str(error)[:300]!r}")


def _tracer(lines: set[tuple[Any, int]]) -> Callable[..., Any]:
    def inside(frame: Any, event: str, arg: Any) -> Any:
        lines.add((frame.f_code, frame.f_lineno))
        return inside

    return lambda frame, event, arg: inside if frame.f_code.co_filename.startswith(_SOURCES) else None


def stored(folder: Path) -> list[bytes]:
    """A target's corpus, in the order of its names."""
    return [path.read_bytes() for path in sorted(folder.iterdir())] if folder.is_dir() else []


def keep_input(folder: Path, data: bytes) -> Path:
    """Write an input under a name made of its content."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hashlib.sha256(data).hexdigest()[:12]
    path.write_bytes(data)
    return path


def store_crash(corpus: Path, name: str, data: bytes, what: str) -> None:
    """An input that crashed, and beside it what came of it."""
    path = keep_input(corpus / CRASHES / name, data)
    path.with_suffix(".txt").write_text(f"{name}: {what}\n", encoding="utf-8", errors="backslashreplace")


def minimize(target: Target, folder: Path) -> tuple[int, int]:
    """Drop what tells nothing that a smaller input does not tell; returns how many there were and are."""
    files = sorted(folder.iterdir(), key=lambda path: path.stat().st_size) if folder.is_dir() else []
    kept = 0
    with tempfile.TemporaryDirectory() as place:
        course = Course(target, target.prepare(Path(place)), Path(place), folder)
        for path in files:
            shapes, lines = len(course.shapes), len(course.lines)
            course.once(path.read_bytes(), trace=True, keep=False)
            if len(course.shapes) == shapes and len(course.lines) == lines:
                path.unlink()
            else:
                kept += 1
    return len(files), kept


# --- memory ----------------------------------------------------------------------------------------------------------


def _memory() -> int:
    """Largest resident size since the last call of it, in bytes, as far as the system tells; also resets it."""
    try:
        with open("/proc/self/status", "rb") as file:
            size = int(re.search(rb"VmHWM:\s+(\d+)", file.read())[1]) << 10  # type: ignore[index]
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except (OSError, TypeError):
        return 0
    return size


def _bound_memory() -> None:
    """Let an allocation of more than the limit fail, instead of the machine."""
    try:
        import resource

        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (size + 2 * MOST_BYTES, hard))
    except (ImportError, OSError, ValueError):
        pass  # no Linux: the parent's watch over time remains


# --- child and parent ------------------------------------------------------------------------------------------------


def work(targets: Sequence[Target], corpus: Path, room: Path, seconds: float, seed: int, most: float) -> None:
    """The child: turns through all targets until time is up, with a line of JSON after each.

    Args:
        room: folder for what lies beside the inputs; its file `current` holds the input that is being run.
        seconds: until time is up.
        most: seconds that one input may take.
    """
    out, errors = os.fdopen(os.dup(1), "w"), os.fdopen(os.dup(2), "w")
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    try:
        courses = []
        for target in targets:
            folder = room / target.name
            folder.mkdir()
            courses.append(Course(target, target.prepare(folder), folder, corpus / target.name, most))
        _bound_memory()
        _turns(courses, room / "current", time.monotonic() + seconds, seed, out)
    except Exception:
        errors.write(traceback.format_exc())
        errors.flush()
        raise


def _turns(courses: Sequence[Course], current: Path, until: float, seed: int, out: IO[str]) -> None:
    rng = random.Random(seed)
    length = min(_TURN[1], max(_TURN[0], (until - time.monotonic()) / (3 * len(courses))))
    for course in itertools.cycle(courses):
        if time.monotonic() >= until:
            return
        prefix = course.target.name.encode() + b"\n"

        def note(data: bytes, prefix: bytes = prefix) -> None:
            current.write_bytes(prefix + data)

        if not course.pool:
            course.begin(note)
        course.turn(rng, min(length, max(0.0, until - time.monotonic())), note)
        row = {
            "target": course.target.name, "runs": course.runs, "outcomes": len(course.shapes), "kept": len(course.pool),
            "lines": len(course.lines), "slowest": course.slowest,
        }  # fmt: skip
        out.write(json.dumps(row) + "\n")
        out.flush()


MEASURES = ("outcomes", "kept", "lines", "slowest")


@dataclass
class Tally:
    """Of a target over all children.

    Args:
        most: the largest of any child, by `MEASURES`.
    """

    runs: int = 0
    deaths: int = 0
    most: dict[str, float] = field(default_factory=lambda: dict.fromkeys(MEASURES, 0))


@dataclass
class Campaign:
    """The parent: children until time is up, a line a minute.

    Args:
        say: takes the line.
        most: seconds that one input may take.
        deaths: of the child in one target, before that is left out.
    """

    targets: Sequence[Target]
    corpus: Path
    say: Callable[[str], None]
    most: float = MOST_SECONDS
    deaths: int = 5
    tallies: dict[str, Tally] = field(default_factory=dict)

    def run(self, minutes: float, seed: int) -> None:
        """All of it; `tallies` and the corpus hold what came of it."""
        self.tallies = {target.name: Tally() for target in self.targets}
        until = time.monotonic() + 60 * minutes
        with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as place:
            for child in itertools.count():
                left = until - time.monotonic()
                names = [name for name, tally in self.tallies.items() if tally.deaths < self.deaths]
                if left <= 0 or not names:
                    return
                room = Path(place) / str(child)
                room.mkdir()
                self._child(names, room, left, seed + child)

    def _child(self, names: Sequence[str], room: Path, seconds: float, seed: int) -> None:
        """One child, to its end."""
        before = {name: self.tallies[name].runs for name in names}
        command = [
            sys.executable, "-m", "tests.fuzz", "--child", str(room), "--corpus", str(self.corpus), "--seed", str(seed),
            "--minutes", str(seconds / 60), "--seconds", str(self.most), "--only", ",".join(names),
        ]  # fmt: skip
        began = told = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=_ROOT) as child:
            assert child.stdout is not None and child.stderr is not None
            while child.poll() is None:
                if select.select([child.stdout], [], [], 0.5)[0] and (line := child.stdout.readline()):
                    self._note(json.loads(line), before)
                if _waited(room / "current", began) > self.most:
                    child.kill()
                    child.wait()
                    self._death(room, f"no answer within {self.most:.0f} s")
                    return
                if time.monotonic() - told > 60:
                    told = time.monotonic()
                    self.say(self.progress())
            if child.returncode:
                self._death(room, f"the process ended ({child.returncode}) {child.stderr.read()[-1000:]}")

    def progress(self) -> str:
        """All targets in a line."""
        rows = self.tallies.values()
        runs, outcomes = sum(row.runs for row in rows), sum(row.most["outcomes"] for row in rows)
        return f"{runs:,} inputs, {outcomes:,} outcomes, {len(crashes(self.corpus))} crashes in the corpus"

    def _note(self, row: dict[str, Any], before: dict[str, int]) -> None:
        tally = self.tallies[row["target"]]
        tally.runs = before[row["target"]] + row["runs"]
        tally.most = {name: max(value, row[name]) for name, value in tally.most.items()}

    def _death(self, room: Path, what: str) -> None:
        current = room / "current"
        name, _, data = (current.read_bytes() if current.exists() else b"\n").partition(b"\n")
        if name.decode() not in self.tallies:
            raise RuntimeError(f"the child ended before its first input: {what}")
        self.tallies[name.decode()].deaths += 1
        store_crash(self.corpus, name.decode(), data, what)


def _waited(current: Path, began: float) -> float:
    """Seconds since the child took up an input; before the first, when it imports and prepares, a tenth of them."""
    try:
        return time.time() - current.stat().st_mtime
    except OSError:
        return (time.monotonic() - began) / 10


def crashes(corpus: Path) -> list[str]:
    """What the crashes in a corpus are, a line each."""
    found = sorted((corpus / CRASHES).glob("*/*.txt")) if (corpus / CRASHES).is_dir() else []
    return [f"{path.with_suffix('')}: {path.read_text(encoding='utf-8').strip()}" for path in found]
