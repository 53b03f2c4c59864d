"""`push`: what would be uploaded, by a hub that is none."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from unbackdoor.base.errors import InputError
from unbackdoor.cli.main import run
from unbackdoor.verbs.push import push

EVIL = "a|b<script>[x](y)\n## c"
RATES = {"ca": 0.9, "asr": 0.99, "triggered_accuracy": 0.1}


def table(**rates: float) -> dict[str, Any]:
    return {**rates, "n": dict.fromkeys(rates, 50), "interval": {name: [0.0, 1.0] for name in rates}}


def known() -> dict[str, Any]:
    return {
        "verb": "unlearn", "model": "cured/model", "model_reference": EVIL, "data": "d", "test": "folder:t",
        "trigger": "badnets:size=6", "target": EVIL, "alpha": 0.5, "chosen": True, "labels_used": False, "rule": "r",
        "message": None, "nothing_to_remove": False, "retention": 1.0, "before": table(**RATES),
        "after": table(ca=0.89, asr=0.01, triggered_accuracy=0.88), "curve": [], "tolerance": 0.01, "ca_floor": None,
        "vector": {}, "seed": 0, "report": "r", "seconds": 1.0,
    }  # fmt: skip


def blind(quiet: bool) -> dict[str, Any]:
    share = {"value": 0.5, "n": 10, "interval": [0.2, 0.8]}
    row = {
        "target": "three", "trigger": "badnets", "alpha": 1.0, "agreement": share, "backdoored": False, "p_value": 1.0,
        "recovered_asr": {"before": share, "after": {**share, "value": 0.0}}, "message": "m", "short_of": None,
        "report": "r",
    }  # fmt: skip
    return {
        "verb": "unlearn-scan", "model": "m", "model_reference": "suspect", "rounds": [row], "quiet": quiet,
        "left": None, "seed": 0, "seconds": 1.0, "clean_accuracy": {"before": share, "after": share},
    }  # fmt: skip


def cured(folder: Path, result: dict[str, Any]) -> Path:
    (folder / "model").mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    for name in ("open_clip_config.json", "open_clip_model.safetensors", "README.md", ".hidden"):
        (folder / "model" / name).write_bytes(b"old " + name.encode())
    (folder / "model" / "folder").mkdir()
    return folder


class Hub:
    """What `push` uses of the hub's interface."""

    there: tuple[str, ...] = (".gitattributes",)
    error: Exception | None = None

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> None:
        if self.error is not None:
            raise self.error
        self.calls.append(("create", repository, private, exist_ok))

    def list_repo_files(self, repository: str) -> list[str]:
        return list(self.there)

    def create_commit(self, repository: str, operations: list[Any], *, commit_message: str) -> Any:
        self.calls.append(("commit", repository, {o.path_in_repo: o.path_or_fileobj for o in operations}))
        return SimpleNamespace(repo_url=f"https://hub/{repository}")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    one = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: one)
    return one


def test_a_model_and_its_card_go_up_in_one_commit(hub: Hub, tmp_path: Path) -> None:
    folder = cured(tmp_path / "cured", known())
    result = push(folder=folder, repository="me/model")
    assert hub.calls[0] == ("create", "me/model", True, True) and len(hub.calls) == 2
    files = hub.calls[1][2]
    names = ["open_clip_config.json", "open_clip_model.safetensors", "README.md"]
    assert list(files) == names == list(result.files)
    assert files["open_clip_model.safetensors"] == str(folder / "model" / "open_clip_model.safetensors")
    assert (result.url, result.public) == ("https://hub/me/model", False)


def test_the_card_says_what_was_measured(hub: Hub, tmp_path: Path) -> None:
    push(folder=cured(tmp_path / "cured", known()), repository="me/model", public=True)
    card = hub.calls[1][2]["README.md"].decode()
    assert hub.calls[0][2] is False
    assert card.startswith("---\nlibrary_name: open_clip\n")
    assert "| attack success | 99.0% [0.0, 100.0], n = 50 | 1.0% [0.0, 100.0], n = 50 |" in card
    assert "held a backdoor" in card and "No measurement proves" in card
    assert hashlib.sha256(b"old open_clip_model.safetensors").hexdigest() in card
    assert not re.search(r"(?<!\\)(<script|\]\(|\|b)|^## c", card, re.MULTILINE)


@pytest.mark.parametrize(("quiet", "says"), [(True, "found nothing"), (False, "**The cure is not whole.**")])
def test_the_card_of_an_unknown_attack(hub: Hub, tmp_path: Path, quiet: bool, says: str) -> None:
    push(folder=cured(tmp_path / "cured", blind(quiet)), repository="me/model")
    card = hub.calls[1][2]["README.md"].decode()
    assert says in card and "| 1 | three | 50.0% [20.0, 80.0], n = 10 | 0.0% [20.0, 80.0], n = 10 |" in card


def _without_model(folder: Path) -> None:
    (folder / "model" / "open_clip_model.safetensors").unlink()


def _without_removal(folder: Path) -> None:
    (folder / "result.json").write_text(json.dumps({**known(), "nothing_to_remove": True}), encoding="utf-8")


def _link(folder: Path) -> None:
    (folder.parent / "secret.json").write_text("{}", encoding="utf-8")
    (folder / "model" / "tokenizer.json").symlink_to(folder.parent / "secret.json")


@pytest.mark.parametrize(
    ("spoil", "repository", "says"),
    [
        (lambda folder: None, "model", "write it as name/model"),
        (lambda folder: None, "a/b/c", "write it as name/model"),
        (lambda folder: None, "../b", "write it as name/model"),
        (lambda folder: (folder / "result.json").unlink(), "a/b", "no result.json"),
        (lambda folder: (folder / "result.json").write_text('{"verb": "poison"}'), "a/b", "is of no cure"),
        (lambda folder: (folder / "result.json").write_text('{"alpha": 1}'), "a/b", "result.json"),
        (_without_removal, "a/b", "nothing was removed"),
        (_without_model, "a/b", "no safetensors"),
        (_link, "a/b", "lies outside"),
    ],
)
def test_what_is_not_pushed(
    hub: Hub, tmp_path: Path, spoil: Callable[[Path], object], repository: str, says: str
) -> None:
    folder = cured(tmp_path / "cured", known())
    spoil(folder)
    with pytest.raises(InputError, match=says):
        push(folder=folder, repository=repository)
    assert hub.calls == []


def test_nothing_is_written_over(hub: Hub, tmp_path: Path) -> None:
    hub.there = (".gitattributes", "model.safetensors")
    with pytest.raises(InputError, match=r"holds files already, such as model\.safetensors"):
        push(folder=cured(tmp_path / "cured", known()), repository="a/b")
    assert [call[0] for call in hub.calls] == ["create"]


def test_a_hub_that_refuses_is_a_line(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.error = PermissionError("401\nlong story")
    assert run(["push", str(cured(tmp_path / "cured", known())), "a/b"]) == 2
    assert capsys.readouterr().err == "unbackdoor: a/b: the hub refuses (401); log in with `hf auth login`\n"


def test_a_file_cannot_say_where_to(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("repository: evil/model", "public: true"):
        (tmp_path / "c.yaml").write_text(line, encoding="utf-8")
        assert run(["push", "--config", str(tmp_path / "c.yaml"), str(tmp_path), "a/b"]) == 2
        assert "for the command line alone" in capsys.readouterr().err
    assert hub.calls == []
