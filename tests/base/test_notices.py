"""Warnings: printable, said once, and collected every time."""

from __future__ import annotations

import uuid

import pytest

from unbackdoor.base.notices import collected, warn


def test_a_warning_is_printed_once_and_collected_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    line = f"a doubt {uuid.uuid4()}"
    with collected() as outer:
        warn(line)
        with collected() as inner:
            warn(line)
            warn(line)
    warn(line)
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"warning: {line}\n")
    assert outer == inner == [line]


def test_a_warning_is_one_printable_line(capsys: pytest.CaptureFixture[str]) -> None:
    warn(f"class \x1b[2J\n{uuid.uuid4()}")
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "\x1b" not in err


def test_the_first_process_speaks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with collected() as lines:
        warn(str(uuid.uuid4()))
    assert len(lines) == 1 and capsys.readouterr().err == ""
