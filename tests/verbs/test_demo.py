"""The demo's story, its two long verbs replaced: what it asks of them and what it leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unbackdoor import load
from unbackdoor.verbs import demo as module


def test_the_object_and_the_file_tell_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def poison(**settings: Any) -> dict[str, Any]:
        asked["poison"] = settings
        return {"before": {"ca": 0.9}, "model": "suspect/model"}

    def unlearn(**settings: Any) -> dict[str, Any]:
        asked["unlearn"] = settings
        (tmp_path / "result.json").write_text("{}")
        return {"seconds": -1.0, **settings["extra"]}

    monkeypatch.setattr(module, "poison", poison)
    monkeypatch.setattr(module, "unlearn", unlearn)
    monkeypatch.setattr(module, "open_model", lambda _: load("embedded"))  # there is no suspect to open
    result = module.demo(out=tmp_path, seed=5)
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert result["cure_seconds"] == -1.0 and result["seconds"] >= 0 and result["original"] == {"ca": 0.9}
    assert asked["poison"]["seed"] == asked["unlearn"]["seed"] == 5
    assert asked["poison"]["out"] == tmp_path / "suspect"
    for key in ("data", "test", "trigger", "target"):
        assert asked["poison"][key] is asked["unlearn"][key]
