"""The demo's story, its two long verbs replaced: what it asks of them and what it leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unbackdoor import load
from unbackdoor.runs.result import RateTable
from unbackdoor.verbs import demo as module
from unbackdoor.verbs.results import CureResult, PlantResult
from unbackdoor.verbs.results.cures import VectorFacts


def test_the_object_and_the_file_tell_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    shared = {"model_reference": "m", "data": "d", "trigger": "badnets", "target": "t", "seed": 5}
    table = RateTable(ca=0.9, n={"ca": 10}, interval={"ca": (0.5, 1.0)})

    def poison(**settings: Any) -> PlantResult:
        asked["poison"] = settings
        rates = {"before": table, "after": table}
        sizes = {"poison_rate": 0.1, "clean_label": False, "poisoned": 1, "seconds": 1.0}
        return PlantResult(model="suspect/model", **shared, **rates, **sizes)

    def unlearn(**settings: Any) -> CureResult:
        asked["unlearn"] = settings
        (tmp_path / "result.json").write_text("{}")
        choice = {"alpha": 1.0, "chosen": True, "rule": "r", "message": None, "tolerance": 0.0, "ca_floor": None}
        files = {"model": "m", "test": "d", "vector": VectorFacts(), "report": "r"}
        rates = {"before": table, "after": table, "retention": 1.0, "curve": ()}
        rest = {"verb": "demo", "labels_used": False, "nothing_to_remove": False, "seconds": -1.0}
        return CureResult(**shared, **choice, **files, **rates, **rest, **settings["extra"])

    monkeypatch.setattr(module, "poison", poison)
    monkeypatch.setattr(module, "unlearn", unlearn)
    monkeypatch.setattr(module, "open_model", lambda _: load("embedded"))  # there is no suspect to open
    result = module.demo(out=tmp_path, seed=5)
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert result["cure_seconds"] == -1.0 and result["seconds"] >= 0 and result.original == table
    assert asked["poison"]["seed"] == asked["unlearn"]["seed"] == 5
    assert asked["poison"]["out"] == tmp_path / "suspect"
    for key in ("data", "test", "trigger", "target"):
        assert asked["poison"][key] is asked["unlearn"][key]
