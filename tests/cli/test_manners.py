"""What people and scripts can rely on: help, exit codes, errors as JSON, junk refused early, any encoding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from unbackdoor.base import progress
from unbackdoor.base.errors import InputError, Interrupted
from unbackdoor.base.progress import Progress
from unbackdoor.cli import main as cli
from unbackdoor.cli.options import show

DIGITS = ["--data", "embedded:digits"]
ATTACK = [*DIGITS, "--trigger", "badnets:size=6", "--target", "three"]
EVIL = "\x1b]0;pwned\x07\x1b[31m\u202e\nx"


def call(args: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.run(args)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("args", [[], ["weights"]])
def test_a_group_alone_prints_its_help_as_laid_out(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(args, capsys)
    assert code == 0 and err == ""
    assert (code, out) == (0, call([*args, "--help"], capsys)[1])
    assert len(out.splitlines()) > 10 and "Commands:" in out


def broken(error: BaseException) -> Callable[..., Any]:
    def verb(**_: object) -> None:
        raise error

    return verb


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (InputError("what, where"), 2, "what, where"),
        (ZeroDivisionError("boom"), 3, "please report it"),
        (MemoryError(), 2, "out of memory (MemoryError); use a smaller --limit"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 2, "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 2, "out of memory"),
        (RuntimeError("can't start new thread"), 2, "out of memory (can't start new thread)"),
        (RuntimeError("boom"), 3, "internal error: RuntimeError: boom"),
        (OSError(28, "No space left on device", "there"), 2, "there: No space left on device"),
        (OSError(28, "No space left on device"), 2, "file system: No space left"),
        (Interrupted(), 130, "run the same command again to continue"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (InputError(EVIL), 2, "x"),
        (ValueError(EVIL), 3, "internal error"),
        (InputError("x" * 10**6), 2, "…"),
    ],
)
def test_errors_are_a_line_and_with_json_an_object(
    error: BaseException, code: int, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import unbackdoor.verbs.info as verb

    monkeypatch.setattr(verb, "info", broken(error))
    for args in (["info", "--trigger", "blended"], ["info", "--trigger", "blended", "--json"]):
        found, out, err = call(args, capsys)
        assert found == code and says in err and len(err) < 2500
        err = err.lstrip("\n") if code == 130 else err  # click ends the line with ^C on it
        assert err.count("\n") == 1 and all(c.isprintable() for c in err[:-1])
        if "--json" in args:
            told = json.loads(out)
            assert told == {"verb": "info", "error": err.strip().removeprefix("unbackdoor: "), "code": code}
        else:
            assert out == ""
    if type(error) is KeyboardInterrupt:
        assert "continue" not in err


def test_work_goes_on_where_no_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with Progress("pictures", 3) as bar:
        bar.step(2)
    assert bar.line().startswith("pictures: 2/3")


def test_usage_errors_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    for args in (
        ["evaluate", "--json"],
        ["nosuch", "--json"],
        ["weights", "diff", "--json"],
        ["info", f"--{EVIL}", "--json"],
    ):
        code, out, err = call(args, capsys)
        told = json.loads(out)
        assert code == told["code"] == 2 and told["error"] in err
        assert told["verb"] == {"evaluate": "evaluate", "info": "info", "weights": "weights diff"}.get(args[0], "")
        assert all(c.isprintable() for c in err[:-1])


def test_a_traceback_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    import unbackdoor.verbs.info as verb

    monkeypatch.setattr(verb, "info", broken(ZeroDivisionError("boom")))
    with pytest.raises(ZeroDivisionError):
        cli.run(["info", "--trigger", "blended", "--debug"])


OUT = ["--out", "{out}"]
NOT_THERE = [
    ["evaluate", "--model", "/does/not/exist", *DIGITS],
    ["evaluate", "--model", "local-dir:none", *DIGITS],
    ["evaluate", "--model", "adapter:none", *DIGITS],
    ["evaluate", "--model", "ViT-B-32", "--checkpoint", "none.pt", *DIGITS],
    ["evaluate", "--model", "ViT-B-32", "--checkpoint", "{folder}", *DIGITS],
    ["evaluate", "--model", "embedded", "--data", "folder:none"],
    ["evaluate", "--model", "embedded", "--data", "csv:none.csv"],
    ["evaluate", "--model", "embedded", *DIGITS, "--classes", "none.txt"],
    ["evaluate", "--model", "embedded", *DIGITS, "--templates", "none/of/them"],
    ["info", "--trigger", "@none.txt"],
    ["info", "--trigger", "@{folder}"],
    ["poison", "--model", "embedded", *ATTACK, "--out", "{file}"],
    ["poison", "--model", "embedded", *ATTACK, "--out", "{file}/below"],
    ["poison", "--model", "embedded", *ATTACK, "--out", "a\0b"],
    ["poison", "--model", "embedded", *ATTACK, "--captions", "none.json", *OUT],
    ["vector", "--model", "embedded", *ATTACK, "--out", "{folder}"],
    ["unlearn", "--model", "embedded", *ATTACK, "--vector", "none", *OUT],
    ["unlearn", "--scan", "none", *DIGITS, *OUT],
    ["unlearn", "--scan", "{folder}", *DIGITS, *OUT],
    ["scan", "--model", "embedded", *DIGITS, "--null", "none.jsonl"],
    ["scan", "--model", "embedded", *DIGITS, "--origin", "/does/not/exist"],
    ["scan", "--calibrate", "--model", "embedded", *DIGITS, "--null", "{folder}"],
    ["locate", "--model", "embedded", "--vector", "none", *ATTACK, *OUT],
    ["bench", "none.yaml", *OUT],
    ["zoo", "{folder}", *OUT],
]
PROBE = """
import json, sys
sys.modules["torch"] = sys.modules["numpy"] = None
from unbackdoor.cli.main import run
for args in json.loads(sys.argv[1]):
    if run(args) != 2:
        print("not refused:", args, file=sys.stderr)
"""


def test_paths_are_looked_at_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    places = {name: str(tmp_path / name) for name in ("file", "folder", "out")}
    args = [[a.format(**places) for a in line] for line in NOT_THERE]
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(args)], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    lines = done.stderr.strip().splitlines()
    assert len(lines) == len(NOT_THERE), done.stderr
    assert all(line.startswith("unbackdoor: ") and "internal error" not in line for line in lines), done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["unlearn", "--model", "embedded", *ATTACK, *OUT, "--null", "{file}"], "--null does nothing without --scan"),
        (["unlearn", "--model", "embedded", *ATTACK, *OUT, "--rounds", "2"], "--rounds does nothing"),
        (["unlearn", "--model", "embedded", *ATTACK, *OUT, "--force"], "--force does nothing"),
        (["unlearn", "--model", "embedded", *ATTACK, *OUT, "--origin", "embedded"], "--origin does nothing"),
        (["unlearn", "--model", "embedded", *ATTACK, *OUT, "--alpha", "1", "--alpha-grid", "1"], "--alpha-grid does"),
        (["unlearn", "--model", "embedded", *ATTACK, *OUT, "--vector", "{file}", "--lr", "1"], "--lr does nothing"),
        (["unlearn", "--scan", "{file}", *ATTACK, *OUT], "leave out --t"),
        (["scan", "--model", "embedded", *DIGITS, "--copies", "2"], "--copies does nothing"),
        (["scan", "--calibrate", "--model", "embedded", *DIGITS, "--null", "{new}", "--out", "{out}"], "--out does"),
        (
            ["scan", "--calibrate", "--model", "embedded", *DIGITS, "--null", "{new}", "--false-alarm-rate", "0.1"],
            "--false-alarm-rate does nothing",
        ),
        (["scan", "--calibrate", "--model", "embedded", *DIGITS], "needs --null"),
        (["evaluate", "--model", "embedded", *DIGITS, "--counting", "par"], "--counting does nothing"),
        (["info", "--trigger", "blended", "--classes", "cifar10"], "--classes does nothing"),
        (["info", *DIGITS, "--checkpoint", "{file}"], "--checkpoint does nothing"),
        (["poison", "--model", "embedded", *ATTACK, *OUT, "--captions", "{file}"], "regime pairs"),
        # numbers that are none, or none that could be meant
        (["unlearn", "--model", "embedded", *ATTACK, *OUT, "--alpha", "nan"], "neither auto nor a number"),
        (["unlearn", "--model", "embedded", *ATTACK, *OUT, "--alpha", "inf"], "neither auto nor a number"),
        (["unlearn", "--model", "embedded", *ATTACK, *OUT, "--alpha-grid", "nan,1"], "finite"),
        (["unlearn", "--model", "embedded", *ATTACK, *OUT, "--tolerance", "nan"], "'nan' is not a number in [0, 1)"),
        (["unlearn", "--model", "embedded", *ATTACK, *OUT, "--floor", "2"], "'2' is not a number in (0, 1]"),
        (["unlearn", "--model", "embedded", *ATTACK, *OUT, "--lr", "inf"], "--lr"),
        (["unlearn", "--model", "embedded", *ATTACK, *OUT, "--lr", "0"], "--lr"),
        (["poison", "--model", "embedded", *ATTACK, *OUT, "--poison-rate", "nan"], "--poison-rate"),
        (["scan", "--model", "embedded", *DIGITS, "--false-alarm-rate", "nan"], "--false-alarm-rate"),
        (["scan", "--model", "embedded", *DIGITS, "--false-alarm-rate", "0"], "--false-alarm-rate"),
        (["evaluate", "--model", "embedded", *DIGITS, "--seed", "9" * 30], "--seed"),
        (["evaluate", "--model", "embedded", *DIGITS, "--limit", "0"], "--limit"),
    ],
)
def test_what_would_do_nothing_or_harm_is_refused(
    args: list[str], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    places = {name: str(tmp_path / name) for name in ("file", "out", "new")}
    code, out, err = call([a.format(**places) for a in args], capsys)
    assert code == 2 and part in err and out == "" and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_results_are_printed_in_any_encoding(encoding: str) -> None:
    code = (
        "from unbackdoor.cli.main import run, _speak_any_encoding\n"
        "from unbackdoor.cli.options import show\n"
        "assert run(['unlearn', '--help']) == 0\n"
        "show({}, False, lambda r: ['α = 1 – ξ τ'])\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    # Click takes ASCII for a mistake in the environment and writes UTF-8.
    assert "= 1" in done.stdout.decode("utf-8" if encoding == "ascii" else encoding)


def test_lines_of_strangers_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    show({"name": EVIL}, False, lambda r: [f"target: {r['name']}", "second"])
    out = capsys.readouterr().out
    assert out.count("\n") == 2 and all(c.isprintable() or c == "\n" for c in out)
    show({"name": EVIL}, True, lambda r: [])
    out = capsys.readouterr().out
    assert out.isascii() and json.loads(out) == {"name": EVIL}


def test_a_scan_that_cannot_tell_is_no_clean_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from unbackdoor.verbs import scan as verb

    share = {"value": 0.9, "n": 10, "interval": [0.5, 1.0]}
    result: dict[str, Any] = {
        "message": "cannot tell: no clean models", "target": {"name": "three", "confidence": 0.9}, "others": [],
        "trigger": {"inverter": "patch", "norm": 0.1, "strength": share, "picture": "p.png"}, "report": "r.html",
        "inverters": [], "twin_agreement": None,
    }  # fmt: skip
    for verdict, code in ((True, 1), (False, 0), (None, 4)):
        monkeypatch.setattr(verb, "scan", lambda verdict=verdict, **_: {**result, "backdoored": verdict})
        found, out, _ = call(["scan", "--model", "embedded", *DIGITS], capsys)
        assert found == code
        assert ("target:  three" in out) == ("picture: p.png" in out) == (verdict is True)
        assert ("no finding; the strongest candidate was three" in out) == (verdict is not True)
        if verdict is None:
            assert out.startswith("cannot tell")


def test_without_a_terminal_a_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("quick", 3) as bar:
        bar.step(3)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "SECONDS", 0.02)
    with Progress(f"slow {EVIL}", 300) as bar:
        for done in range(1, 4):
            bar.step(done, loss=0.5)
            time.sleep(0.05)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2 and all(line.startswith("slow") and line.isprintable() for line in lines)
    assert "/300" in lines[-1] and "loss 0.5000" in lines[-1] and lines[-1].endswith("left")
    with Progress("hidden", 3, quiet=True) as bar:
        time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_every_command_looks_at_its_paths() -> None:
    from unbackdoor.cli.options import Verb

    for name in cli.COMMANDS.names():
        command = cli.cli.get_command(click.Context(cli.cli), name)
        assert isinstance(command, Verb | click.Group), name
