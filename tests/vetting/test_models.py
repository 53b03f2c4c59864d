"""What a user names, as models: references, folders of models, globs and lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from unbackdoor import InputError
from unbackdoor.vetting.models import expanded


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of every sort, seen from themselves."""
    monkeypatch.chdir(tmp_path)
    for name in ("zoo/b/model/config.json", "zoo/a/open_clip_config.json", "zoo/c/adapter_config.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("{}")
    for name in ("zoo/d/evil.pkl", "zoo/readme/readme.md", "flat/member.safetensors", "flat/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("texts", "models"),
    [
        (["embedded"], ["embedded"]),
        (["zoo/a"], ["zoo/a"]),
        (["zoo"], ["zoo/a", "zoo/b", "adapter:zoo/c", "zoo/d"]),
        (["zoo/*"], ["zoo/a", "zoo/b", "adapter:zoo/c", "zoo/d", "zoo/readme"]),
        (["zoo/[ab]", "zoo/a"], ["zoo/a", "zoo/b"]),
        (["zoo/c"], ["adapter:zoo/c"]),
        (["flat/*"], ["flat/member.safetensors"]),
        (["empty"], ["empty"]),
        (["hf-hub:org/name", "ViT-B-32:openai"], ["hf-hub:org/name", "ViT-B-32:openai"]),
        (["@list.txt", "zoo/b"], ["embedded", "zoo/a", "zoo/b"]),
    ],
)
def test_expanded(texts: list[str], models: list[str], place: Path) -> None:
    (place / "list.txt").write_text("# ours\nembedded\n\n zoo/a \nzoo/b\n")
    assert [m.replace("\\", "/") for m in expanded(texts)] == models


@pytest.mark.parametrize(
    ("text", "content", "part"),
    [
        ("@list.txt", "", "names no model"),
        ("@list.txt", "hf-hub:org/name\n", "name it on the command line"),
        ("@list.txt", "embedded\n//server/share\n", "model 2"),
        ("@none.txt", "", "No such file"),
        ("zoo/x*", "", "matches no model"),
    ],
)
def test_what_is_refused(text: str, content: str, part: str, place: Path) -> None:
    (place / "list.txt").write_text(content)
    with pytest.raises(InputError, match=part):
        expanded([text])


def test_a_list_is_not_without_end(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unbackdoor.vetting.models._MOST", 2)
    with pytest.raises(InputError, match="more than 2 models"):
        expanded(["zoo"])
