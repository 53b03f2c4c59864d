"""A budget leaves out what is worth least and says so; what is left is weighed as by a null of the same inverters."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.scan.toy import toy_clip, toy_images, toy_subject
from unbackdoor import scan
from unbackdoor.base.errors import InputError
from unbackdoor.scan.cost import WORTH, Budget, Cost, cost_of, in_order
from unbackdoor.scan.detection import Null, architecture, weigh
from unbackdoor.scan.examine import settings
from unbackdoor.scan.inverters import inverter_names

NAMES = ("patch", "additive", "colour")


def cost(**seconds: float) -> Cost:
    return Cost(seconds or dict.fromkeys(NAMES, 60.0), 30.0, 1 << 30)


def null_of(names: tuple[str, ...]) -> Null:
    rows = tuple(tuple((("0 ant", 0.1 * i + 0.01 * j),) for j in range(len(names))) for i in range(24))
    return Null(architecture(toy_clip(0.0).state()), settings(96, names), names, rows, ("m",) * 24)


def asked(folder: Path, **changes: Any) -> Any:
    (folder / "templates.txt").write_text("{}\n")
    common = {"data": toy_images(), "templates": str(folder / "templates.txt"), "null": null_of(NAMES)}
    return scan(**{"model": toy_clip(6.0), **common, **changes})


def test_what_is_left_out_is_named_and_the_rest_is_weighed_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unbackdoor.verbs.scan.cost_of", lambda *_: cost(patch=3000.0, additive=500.0, colour=1e8))
    monkeypatch.setattr(Budget, "pace", 1.0)
    found = asked(tmp_path, budget=100.0)
    assert found["left_out"] == ["colour"] and "no time for colour" in found["message"]
    assert [row["name"] for row in found["inverters"]] == ["patch", "additive"] == found["weighed"]
    alone = asked(tmp_path, null=null_of(("patch", "additive")))
    assert found["p_value"] == alone["p_value"] and not alone["left_out"] and "budget" not in alone["message"]
    assert asked(tmp_path)["left_out"] == []


def test_a_selection_of_a_null_is_the_null_of_the_selection() -> None:
    scores = {name: {"0 ant": 1.0 + i} for i, name in enumerate(NAMES)}
    part = null_of(NAMES).select(("patch", "colour"))
    rows = tuple((row[0], row[2]) for row in null_of(NAMES).rows)
    own = replace(null_of(NAMES), inverters=("patch", "colour"), rows=rows)
    assert weigh(scores, part) == weigh(scores, own) != weigh(scores, null_of(NAMES))


def test_too_small_a_budget_is_refused_before_anything_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unbackdoor.verbs.scan.cost_of", lambda *_: cost())
    monkeypatch.setattr("unbackdoor.verbs.scan.examine", lambda *_, **__: pytest.fail("nothing is searched"))
    with pytest.raises(InputError, match=r"budget 0\.5 min: the least scan of this model takes about 1 min"):
        asked(tmp_path, budget=0.5)


def test_a_budget_counts_relatives_and_how_long_things_really_take() -> None:
    budget = Budget(200.0, cost())
    assert budget.fits("patch") and budget.least(NAMES) == 60.0
    budget.spend("patch", 240.0)
    assert budget.pace == 4.0 and not budget.fits("colour")
    assert not Budget(200.0, cost(), relatives=2).fits("patch"), "60 s, and twice 90 s"
    assert Budget(250.0, cost(), relatives=2).fits("patch")
    assert not Budget(20.0, cost()).room([]) and Budget(40.0, cost()).room([]) and not Budget(40.0, cost()).room([41.0])
    resumed = Budget(100.0, cost())
    resumed.resume({"patch": 60.0})
    assert resumed.left() < 41.0 and resumed.pace == 1.0


def test_the_cost_is_told_before_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked(tmp_path)
    assert "the scan takes about 1 min and up to " in capsys.readouterr().err
    line = cost(patch=600.0).line(["patch"], 19)
    assert line.endswith("about 10 min and up to 1.0 GB of memory; then up to 19 clean relatives, about 10 min each")


def test_every_inverter_has_a_cost_and_a_worth() -> None:
    began = time.monotonic()
    found = cost_of(toy_subject(6.0), inverter_names())
    assert set(found.seconds) == set(inverter_names()) == set(WORTH)
    assert all(value > 0 for value in found.seconds.values()) and found.memory > 0
    twin = cost_of(replace(toy_subject(6.0), origin=toy_clip(0.0)), inverter_names())
    assert twin.seconds["twin"] > 0 and time.monotonic() - began < 60
    assert in_order(["colour", "mirror", "patch"]) == ["patch", "colour", "mirror"]
