"""The fuzzer's corpus, replayed: every input that once mattered is still returned or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.headers import READERS, once

CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_every_input_is_taken_or_refused_in_one_line(path: Path) -> None:
    once(path.read_bytes())


def test_the_corpus_reaches_every_reader_both_ways() -> None:
    found = {once(path.read_bytes()) for path in CORPUS}
    assert found >= {f"{reader.__name__} {how}" for reader in READERS for how in ("taken", "refused")}
