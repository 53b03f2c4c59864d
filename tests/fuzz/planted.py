"""Targets that misbehave on purpose, to show that the engine sees it: `--only planted`."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.fuzz.engine import Reader, Target
from tests.fuzz.mutate import mutate_bytes
from unbackdoor.base.errors import InputError


def _misbehave(kind: str, data: bytes) -> str:
    if data == b"sound" or not data:
        return "sound"
    if kind == "exception":
        raise KeyError("a bug")
    if kind == "line":
        error = InputError("x")
        error.args = ("\x1b[31m",)  # which the class itself would not let pass
        raise error
    if kind == "memory":
        return str(len(bytearray(64 << 30)))
    if kind == "end":
        os._exit(9)
    time.sleep(1000)
    return "never"


def _target(kind: str) -> Target:
    def prepare(room: Path) -> Reader:
        return lambda data: _misbehave(kind, data)

    return Target(f"planted-{kind}", mutate_bytes, lambda: [b"sound"], prepare)


TARGETS = tuple(map(_target, ("exception", "line", "memory", "end", "hang")))
