"""Runs the command line on hostile inputs, each in a process of its own, and watches what it does.

    python -m tests.hostile.suite                 # all of them, a line each, and a table of what went wrong
    python -m tests.hostile.suite --only zip- -v  # those whose name holds a text, with what they printed

A server imports the heavy libraries once and forks for every entry: one process makes the files, another runs
`unbackdoor` on them. The second is watched by an audit hook (https://peps.python.org/pep-0578/) and from outside:

- no code of the input runs: no marker file appears, nothing of the input's folder is imported or executed, no process
  is started, no pickle asks for anything but tensors;
- nothing reaches out: no socket is connected and no name looked up;
- nothing is written outside the entry's own folder, and the canary beside it is not read;
- the exit code is one that is expected, never 3; what is printed is printable and holds no traceback;
- at most 2 GB of memory and 60 seconds.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent.parent
MEMORY, SECONDS = 2 << 30, 60.0
MARKER = "MARKER"  # in the entry's folder: appears when code of the input runs
CANARY = "canary"  # beside the entry's folder: nobody has told the program to read it


@dataclass(frozen=True)
class Entry:
    """One hostile input.

    Args:
        name: unique; the first word says of what kind.
        make: (its own empty folder, which is the current one) → arguments of `unbackdoor`.
        codes: exit codes that are right.
        says: pattern that what is printed must hold.
        never: pattern that it must not hold.
    """

    name: str
    make: Callable[[Path], list[str]]
    codes: tuple[int, ...] = (2,)
    says: str = ""
    never: str = ""


@dataclass
class Outcome:
    """What a run did.

    Args:
        code: exit code, negative for a signal, None where it was stopped by us.
        peak: largest resident memory in bytes.
        seen: what the audit hook objects to.
        faults: why it counts as failed; empty for a run that is right.
    """

    code: int | None
    seconds: float
    peak: int
    out: str
    err: str
    seen: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


_CODE = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn", "os.startfile")
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.sendto")
# Modules whose classes a checkpoint of plain tensors may name; the reader itself is torch's own.
_TENSORS = re.compile(r"(torch|collections|numpy|_codecs)(\.|$)")


def judge(entry: Entry, outcome: Outcome, folder: Path) -> Outcome:
    """Fill in `faults`."""
    text = outcome.out + outcome.err
    faults = outcome.faults
    if outcome.code not in entry.codes:
        faults.append(f"exit code {outcome.code}, not {' or '.join(map(str, entry.codes))}")
    if (folder / MARKER).exists():
        faults.append("code of the input ran")
    faults += outcome.seen
    if "Traceback (most recent call last)" in text:
        faults.append("a traceback")
    odd = sorted({c for c in text if not c.isprintable() and c != "\n"})
    if odd:
        faults.append(f"prints {odd[:4]}")
    if outcome.code == 2:
        lines = [line for line in outcome.err.splitlines() if not line.startswith("warning: ")]
        if not lines or not lines[-1].startswith("unbackdoor: "):
            faults.append("no line that says what is wrong")
        elif len(lines) > 1 and not lines[0].startswith("Usage: "):
            faults.append(f"{len(lines)} lines where one was promised")
    if entry.says and not re.search(entry.says, text):
        faults.append(f"does not say {entry.says!r}")
    if entry.never and re.search(entry.never, text):
        faults.append(f"says {entry.never!r}")
    if outcome.peak > MEMORY:
        faults.append(f"{outcome.peak / 2**30:.1f} GB of memory")
    if outcome.seconds > SECONDS:
        faults.append(f"{outcome.seconds:.0f} seconds")
    return outcome


class Server:
    """The process that forks; `run` one entry at a time."""

    def __init__(self) -> None:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from tests.hostile.suite.runner import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )

    def run(self, entry: Entry, room: Path) -> Outcome:
        """Make and run one entry in `room`, an empty folder."""
        assert self._process.stdin and self._process.stdout
        print(json.dumps({"name": entry.name, "room": str(room)}), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, "the server of hostile inputs died"
        return judge(entry, Outcome(**json.loads(line)), room / "in")

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def server() -> Iterator[Server]:
    """A server, ended at the end."""
    own = Server()
    try:
        yield own
    finally:
        own.close()


def serve() -> None:
    """Import what every run needs, then fork for each line on stdin."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _preload()
    from tests.hostile.suite import entries

    by_name = {entry.name: entry for entry in entries()}
    for line in sys.stdin:
        request = json.loads(line)
        outcome = _one(by_name[request["name"]], Path(request["room"]))
        print(json.dumps(vars(outcome)), file=answers, flush=True)


def _preload() -> None:
    import importlib

    import torch

    torch.set_num_threads(1)
    for name in (
        "open_clip",
        "transformers",
        "timm",
        "safetensors.torch",
        "pyarrow.parquet",
        "PIL.Image",
        "peft",
        "sklearn.datasets",
        "transformers.models.auto.tokenization_auto",
        "unbackdoor.cli.main",
    ):
        importlib.import_module(name)


def _one(entry: Entry, room: Path) -> Outcome:
    inside = room / "in"
    inside.mkdir(parents=True)
    (room / CANARY).write_text("secret")
    made = _forked(lambda: _make(entry, inside), room / "made", 4 * MEMORY)
    if made.code != 0:
        return Outcome(made.code, made.seconds, 0, "", made.err, [], ["the input could not be made"])
    arguments = json.loads((room / "arguments.json").read_text())
    outcome = _forked(lambda: _run(arguments, inside, room), room / "ran")
    seen = room / "seen.txt"
    outcome.seen = sorted(set(seen.read_text().splitlines())) if seen.exists() else []
    return outcome


def _make(entry: Entry, inside: Path) -> int:
    os.chdir(inside)
    sys.setrecursionlimit(20_000)  # some are nested deeply
    (inside.parent / "arguments.json").write_text(json.dumps([str(a) for a in entry.make(inside)]))
    return 0


def _run(arguments: list[str], inside: Path, room: Path) -> int:
    os.chdir(inside)
    home = room / "home"
    home.mkdir()
    os.environ |= {"HOME": str(home), "UNBACKDOOR_CACHE": str(home / "cache"), "HF_HOME": str(home / "hf")}
    _watch(inside, room)
    from unbackdoor.cli.main import run

    return run(arguments)


def _watch(inside: Path, room: Path) -> None:
    notes = os.open(room / "seen.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    own, canary, temporary = str(inside), str(room / CANARY), os.path.realpath(tempfile.gettempdir())
    places = (str(room), temporary, "/dev/null", "/dev/shm", "/proc/self", os.devnull)

    def note(text: str) -> None:
        os.write(notes, (text.encode("ascii", "backslashreplace")[:300].decode().replace("\n", " ") + "\n").encode())

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in _CODE:
            note(f"started a process: {event} {args[:1]}")
        elif event in _NETWORK:
            note(f"reached out: {event}")
        elif event == "pickle.find_class" and not _TENSORS.match(str(args[0])):
            note(f"unpickled {args[0]}.{args[1]}")
        elif event == "exec" and _path_of(args[0]).startswith(own):
            note(f"executed {args[0].co_filename}")
        elif event == "open" and isinstance(args[0], str | bytes):
            path = os.path.abspath(os.fsdecode(args[0]))
            writing = (isinstance(args[1], str) and set(args[1]) & set("wax+")) or (
                isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            )
            if os.path.realpath(path) == os.path.realpath(canary):
                note("read the canary")
            if writing and not os.path.realpath(path).startswith(places) and not path.startswith(places):
                note(f"wrote {path}")

    sys.addaudithook(hook)


def _path_of(code: Any) -> str:
    """The file that code came from; "" for code that came from none, such as `<string>`."""
    name = str(getattr(code, "co_filename", "<"))
    return "" if name.startswith("<") else os.path.abspath(name)


def _forked(work: Callable[[], int], files: Path, most: float = 1.5 * MEMORY) -> Outcome:
    """Run `work` in a child, its output in `files`.out and .err; stop it where it takes too much."""
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            for number, suffix in ((1, ".out"), (2, ".err")):
                os.dup2(os.open(f"{files}{suffix}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
            code = work()
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
        os._exit(code)
    peak, code = 0, None
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            break
        peak = max(peak, _peak(child))
        if peak > most or time.monotonic() - began > SECONDS + 10:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(0.01)
    out, err = (Path(f"{files}{s}").read_text(errors="replace") for s in (".out", ".err"))
    return Outcome(code, time.monotonic() - began, peak, out[-20_000:], err[-20_000:])


def _peak(process: int) -> int:
    try:
        with open(f"/proc/{process}/status", encoding="ascii") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return 0
