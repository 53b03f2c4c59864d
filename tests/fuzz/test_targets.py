"""The fuzzer's corpus, replayed: every input that once told something new is still returned or refused in one line."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz import planted
from tests.fuzz.__main__ import main
from tests.fuzz.engine import Target, outcome, stored
from tests.fuzz.mutate import LARGEST, mutate_json
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
_MOST_BYTES = 1_500_000


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_input_is_taken_or_refused_in_one_line(target: Target, tmp_path: Path) -> None:
    read = target.prepare(tmp_path)
    found = [outcome(read, data, tmp_path) for data in [*target.seeds(), *stored(CORPUS / target.name)]]
    assert {text.split()[0] for text in found} == {"taken", "refused"} or target.name == "picture"  # none is refused


def test_the_corpus_is_small_and_of_the_targets() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} <= {target.name for target in TARGETS}
    assert sum(path.stat().st_size for path in files) < _MOST_BYTES


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_mutator_takes_whatever_it_made(target: Target) -> None:
    rng, pool = random.Random(0), [*target.seeds(), b"", b"\xff" * 9]
    data, different = pool[0], 0
    for turn in range(40):
        data = target.mutate(data if turn % 8 else rng.choice(pool), rng, pool)
        different += data not in pool
        assert len(data) <= LARGEST + 64
    assert different > 20


def test_numbers_too_long_for_a_float_can_be_changed() -> None:
    rng, data = random.Random(1), b'{"a": 1' + b"0" * 400 + b"}"
    assert len({mutate_json(data, rng, [data]) for _ in range(400)}) > 100


def test_what_is_planted_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(
        ["--only", "planted", "--minutes", "0.25", "--seconds", "2", "--deaths", "1", "--corpus", str(tmp_path)]
    )
    told = capsys.readouterr().out
    assert code == 1
    words = {
        "exception": "KeyError in", "line": "UnfitError in", "memory": "MemoryError in",
        "end": "the process ended (9)", "hang": "no answer within 2 s",
    }  # fmt: skip
    assert {f"planted-{kind}" for kind in words} == {target.name for target in planted.TARGETS}
    for kind, part in words.items():
        assert f"planted-{kind}: {part}" in told, told
        assert any(path.suffix == "" for path in (tmp_path / "crashes" / f"planted-{kind}").iterdir())


def test_what_is_sound_is_no_crash(tmp_path: Path) -> None:
    assert main(["--only", "names", "--minutes", "0.02", "--corpus", str(tmp_path)]) == 0
    assert any((tmp_path / "names").iterdir())
