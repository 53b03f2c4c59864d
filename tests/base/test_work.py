"""Where a run keeps what it has done."""

from __future__ import annotations

from pathlib import Path

import pytest

from unbackdoor.base import work as module
from unbackdoor.base.work import NOWHERE, Stage, Work


def test_a_stage_has_a_label_a_file_and_the_key_of_its_run(tmp_path: Path) -> None:
    work = Work(tmp_path, "key")
    assert work.stage("poison", "poisoning") == Stage("poisoning", tmp_path / "poison.checkpoint", "key")
    assert work.part("twin").stage("anp") == Stage("anp", tmp_path / "twin" / "anp.checkpoint", "key")
    assert NOWHERE.stage("poison") == Stage("poison")


@pytest.mark.parametrize("first", [True, False])
def test_the_first_process_alone_removes(first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_first_process", lambda: first)
    work = Work(tmp_path / "work", "key")
    work.remove()  # nothing there yet
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "vector.checkpoint").write_bytes(b"")
    work.remove()
    assert (tmp_path / "work").exists() != first
    NOWHERE.remove()
