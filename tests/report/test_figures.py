"""The notebook's pictures hold the cells that are on record."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest

from unbackdoor.bench.zoo.tables import as_markdown, cures, detection, false_alarms
from unbackdoor.bench.zoo.verdicts import judge_rows
from unbackdoor.verbs.configs.scan import FALSE_ALARM_RATE

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "lab" / "pictures"


def numbers(path: Path) -> list[str]:
    return [e.text or "" for e in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}title")]


def test_the_sweeps_are_drawn_from_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ROOT / "recipes" / "figures"
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr("sys.argv", ["sweeps.py", "--out", str(tmp_path)])
    runpy.run_path(str(folder / "sweeps.py"), run_name="__main__")
    drawn = {path.name: numbers(path) for path in tmp_path.iterdir()}
    assert {name: len(notes) for name, notes in drawn.items()} == {
        "sweep-n.svg": 22,
        "sweep-lr.svg": 18,
        "sweep-poison-rate.svg": 30,
    }, "CA and ASR of every cell"
    assert "tbar, CA at 64: 47.6% of 2000" in drawn["sweep-n.svg"], "as docs/lab/results.md says"
    # Another version of matplotlib may place them otherwise.
    assert drawn == {name: numbers(PICTURES / name) for name in drawn}, "draw them anew: recipes/figures/sweeps.py"


def test_the_results_are_those_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "figures"))
    filled = runpy.run_path(str(ROOT / "recipes" / "figures" / "results.py"))["filled"]
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert page.count("made by recipes/figures/results.py") == 5
    assert filled(page) == page, "fill it anew: recipes/figures/results.py"


def test_the_foreign_bases_page_holds_the_cells_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "figures"))
    bases = runpy.run_path(str(ROOT / "recipes" / "figures" / "bases.py"))
    page = bases["PAGE"].read_text(encoding="utf-8")
    text = "\n".join(["", "", *bases["tables"](bases["read"](bases["RECORD"]))])
    assert page.partition(bases["MARK"])[2] == text, "make it anew: recipes/figures/bases.py"


def test_the_zoos_page_shows_its_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "figures"))
    zoo = runpy.run_path(str(ROOT / "recipes" / "figures" / "zoo.py"))
    page = zoo["PAGE"].read_text(encoding="utf-8")
    rows = [json.loads(line) for line in zoo["LINES"].read_text(encoding="utf-8").splitlines()]
    _, judged = judge_rows(rows, ["calibration", "test"], "", "", FALSE_ALARM_RATE)
    for verdicts in judged.values():
        assert zoo["again"](verdicts) in page and zoo["table"](verdicts) in page, "make it anew: recipes/figures/zoo.py"
        cured = [(v, v.row["cured"]) for v in verdicts if v.row["cured"]]
        told = (detection(verdicts), false_alarms(verdicts, FALSE_ALARM_RATE), cures(cured))
        assert as_markdown(dict(zip(("detection", "false_alarms", "cures"), told, strict=True))) in page
