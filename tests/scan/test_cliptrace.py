"""CLIPTrace: a submission made of a run of `vet`, read back as a stranger's, and scored."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes.cliptrace.submit import Answer, of_run, read, score, write

from tests.scan.toy import NAMES, TARGET, toy_clip
from tests.verbs.test_vet import HIGH, LOW, Runs, asked
from unbackdoor import vet
from unbackdoor.base.errors import InputError

X, Y = torch.eye(2)
DIAGONAL = torch.nn.functional.normalize(X + Y, dim=0)
TRUTH = {"a": Answer(True, X), "b": Answer(True, Y), "c": Answer(False), "d": Answer(False)}


@pytest.mark.parametrize(
    ("given", "accuracy", "cosine"),
    [
        (TRUTH, 1.0, 1.0),
        ({**TRUTH, "b": Answer(False)}, 0.75, 0.5),
        ({**TRUTH, "b": Answer(True, X)}, 1.0, 0.5),
        ({**TRUTH, "a": Answer(True, -X)}, 1.0, 0.5),  # not below 0
        ({**TRUTH, "a": Answer(True, DIAGONAL)}, 1.0, (1 + math.sqrt(0.5)) / 2),
        ({**TRUTH, "c": Answer(True, X)}, 0.75, 1.0),
        ({"a": TRUTH["a"]}, 0.25, 0.5),
        ({**TRUTH, "a": Answer(True, torch.ones(1))}, 1.0, 0.5),
        ({}, 0.0, 0.0),
    ],
)
def test_the_score(given: dict[str, Answer], accuracy: float, cosine: float) -> None:
    got = score(given, TRUTH)
    assert got["accuracy"] == accuracy and got["cosine"] == pytest.approx(cosine)
    assert got["score"] == pytest.approx(100 * (0.3 * accuracy + 0.7 * cosine))


def test_without_a_backdoor_there_is_no_score() -> None:
    with pytest.raises(InputError, match="no model with a backdoor"):
        score(TRUTH, {"c": Answer(False)})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(TRUTH, tmp_path)
    again = read(tmp_path)
    assert list(again) == list(TRUTH) and score(again, TRUTH)["score"] == pytest.approx(100)
    assert sorted(p.name for p in (tmp_path / "embeddings").iterdir()) == ["a.pt", "b.pt"]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"embedding_file": "embeddings/../../x.pt"}, "no file under embeddings"),
        ({"embedding_file": "/etc/passwd"}, "no file under embeddings"),
        ({"embedding_file": "embeddings/long.pt"}, "length 1"),
        ({"embedding_file": "embeddings/code.pt"}, "holds no tensor"),
        ({"embedding_file": "embeddings/list.pt"}, "holds no tensor"),
        ({"embedding_file": "embeddings/none.pt"}, "holds no tensor"),
        ({"embedding_file": None}, "a label without its file"),
        ({"label": 0}, "a label without its file"),
        ({"label": 2}, "a label without its file"),
        ({"model_id": 3}, "a name that is none"),
        ({"more": 1}, "not model_id, label and embedding_file"),
    ],
)
def test_a_stranger_s_submission_is_refused_in_a_line(change: dict[str, Any], part: str, tmp_path: Path) -> None:
    write(TRUTH, tmp_path)
    torch.save(2 * X, tmp_path / "embeddings/long.pt")
    torch.save([X], tmp_path / "embeddings/list.pt")
    (tmp_path / "embeddings/code.pt").write_bytes(pickle.dumps(Runs()))
    whole = json.loads((tmp_path / "predictions.json").read_text())
    whole["predictions"][0].update(change)
    (tmp_path / "predictions.json").write_text(json.dumps(whole))
    with pytest.raises(InputError, match=part) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value) and not Path("pwned").exists()


@pytest.mark.parametrize(("strength", "null", "has"), [(6.0, LOW, True), (0.0, HIGH, False)])
def test_a_submission_of_a_run_of_vet(strength: float, null: list[float], has: bool, tmp_path: Path) -> None:
    clip = toy_clip(strength)
    vet(models=[clip], out=tmp_path / "run", **asked(tmp_path, null))
    ((name, answer),) = of_run(tmp_path / "run").items()
    assert (name, answer.backdoored) == ("toy", has)
    if answer.embedding is not None:
        # Where triggered pictures are pulled to: nearer to the target's text than to any other.
        head = clip.zero_shot_head(NAMES, ("{}",))
        assert answer.embedding.norm() == pytest.approx(1, abs=1e-4)
        assert int((head @ answer.embedding).argmax()) == TARGET
    assert (answer.embedding is not None) is has
