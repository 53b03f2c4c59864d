"""The watch over hostile inputs bites: each thing that it promises to see is done once, and must be seen."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.hostile.suite.runner import MEMORY, ROOT, SECONDS, Entry, Outcome, judge

ENTRY = Entry("any", lambda folder: [], says="", never="secret")
GOOD = {"code": 2, "seconds": 1.0, "peak": 1, "out": "", "err": "unbackdoor: a.json: holds no JSON object\n"}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"code": 3}, "exit code 3"),
        ({"code": None}, "exit code None"),
        ({"code": -9}, "exit code -9"),
        ({"err": "Traceback (most recent call last):\nunbackdoor: x\n"}, "a traceback"),
        ({"err": "unbackdoor: \x1b[31m\n"}, "prints"),
        ({"err": "\n"}, "no line"),
        ({"err": "one\nunbackdoor: two\n"}, "2 lines"),
        ({"out": "the secret"}, "says"),
        ({"peak": MEMORY + 1}, "GB of memory"),
        ({"seconds": SECONDS + 1}, "seconds"),
        ({"seen": ["reached out: socket.connect"]}, "reached out"),
    ],
)
def test_the_judge_finds(change: dict[str, object], fault: str, tmp_path: Path) -> None:
    assert not judge(ENTRY, Outcome(**GOOD), tmp_path).faults  # type: ignore[arg-type]
    assert any(fault in found for found in judge(ENTRY, Outcome(**{**GOOD, **change}), tmp_path).faults)  # type: ignore[arg-type]


def test_the_judge_finds_a_marker(tmp_path: Path) -> None:
    (tmp_path / "MARKER").touch()
    assert judge(ENTRY, Outcome(**GOOD), tmp_path).faults == ["code of the input ran"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("act", "noted"),
    [
        ("import subprocess; subprocess.run(['true'])", "started a process"),
        ("import os; os.system('true')", "started a process"),
        ("import socket; socket.getaddrinfo('localhost', 80)", "reached out"),
        ("import socket; s = socket.socket(); s.settimeout(0.1); s.connect(('127.0.0.1', 9))", "reached out"),
        ("import pickle; pickle.loads(b'cposix\\nsystem\\n.')", "unpickled posix.system"),
        ("import runpy; runpy.run_path('code.py')", "executed"),
        ("open('../canary').read()", "read the canary"),
        ("open(os.path.join(home, 'x'), 'w')", "wrote"),
    ],
)
def test_the_watch_notes(act: str, noted: str, tmp_path: Path) -> None:
    inside = tmp_path / "room" / "in"
    inside.mkdir(parents=True)
    (inside / "code.py").write_text("pass")
    (inside.parent / "canary").write_text("secret")
    # What lies in the temporary folder may be written, so the forbidden place lies beside the sources.
    program = textwrap.dedent(
        f"""
        import os, sys, tempfile
        from pathlib import Path
        from tests.hostile.suite.runner import _watch
        tempfile.tempdir = {str(inside)!r}
        home = {str(tmp_path)!r}
        os.chdir({str(inside)!r})
        _watch(Path({str(inside)!r}), Path({str(inside.parent)!r}))
        try:
            exec({act!r})
        except OSError:
            pass
        """
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, cwd=ROOT, timeout=60)
    assert noted in (inside.parent / "seen.txt").read_text()
