"""Completion by the shell, as docs/integrations.md tells it: the name of the variable and what is offered."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

MAIN = "from unbackdoor.cli.main import main; main()"


def complete(instruction: str, **variables: str) -> str:
    environment = {**os.environ, "_UNBACKDOOR_COMPLETE": instruction, **variables}
    words = [sys.executable, "-c", MAIN]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("unbackdoor sc", ["scan"]),
        ("unbackdoor convert --to ", ["hf", "open_clip"]),
        ("unbackdoor scan --tra", ["--track"]),
        ("unbackdoor scan --track t", ["tensorboard"]),
    ],
)
def test_words_are_completed(words: str, offered: list[str]) -> None:
    text = complete("bash_complete", COMP_WORDS=words, COMP_CWORD=str(words.count(" ")))
    assert [line.partition(",")[2] for line in text.split()] == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_its_line(shell: str) -> None:
    page = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
    assert f"_UNBACKDOOR_COMPLETE={shell}_source unbackdoor" in page
    assert "_unbackdoor" in complete(f"{shell}_source")
