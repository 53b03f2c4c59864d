"""The walk over a grid: order, resuming, failing cells; and one small real grid by two engines."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.bench.test_recipe import write
from unbackdoor.base.errors import InputError
from unbackdoor.base.manifest import write_json
from unbackdoor.bench.engine import Outcome
from unbackdoor.bench.grid import collect, narrow, plan, run_grid
from unbackdoor.bench.recipe import read_recipe
from unbackdoor.bench.store import address, folder_of
from unbackdoor.cli.main import run
from unbackdoor.verbs.bench import bench

Cells = list[tuple[dict[str, Any], list[dict[str, Any]]]]


SHARE = {"value": 0.5, "n": 2, "interval": [0.1, 0.9]}
RATES = {"ca": SHARE, "asr": SHARE, "triggered_accuracy": SHARE}
# What cells of either kind leave.
LEFT = {
    "trigger": "badnets:size=4", "target": "three", "poisoned": 1, "images": 8, "labels": 0, "steps": 2, "lr": 0.1,
    "seconds": 1.0, "wall_seconds": 1.0, "peak_memory_mib": 1.0, "retention": 1.0, "before": RATES, "after": RATES,
}  # fmt: skip


class Pretended:
    """An engine that writes results without computing, `slots` at once, last submitted first done."""

    def __init__(self, out: Path, fails: Callable[[dict[str, Any]], bool] = lambda c: False, slots: int = 2) -> None:
        self.out, self.fails, self.slots, self.order, self.most = out, fails, slots, list[str](), 0
        self._held: list[dict[str, Any]] = []

    def submit(self, config: dict[str, Any]) -> int:
        first = {"cure": "suspect", "yardstick": "clean"}.get(config["kind"])
        if first is not None:
            assert (folder_of(self.out, config[first]) / "result.json").exists(), "a cell before its suspect"
        self._held.append(config)
        self.order.append(address(config))
        return len(self._held) - 1

    def next_done(self, handles: list[int]) -> tuple[int, Outcome]:
        self.most = max(self.most, len(handles))
        config = self._held[handles[-1]]
        if self.fails(config):
            return handles[-1], (None, "no luck")
        write_json(folder_of(self.out, config) / "result.json", {**LEFT, "address": address(config)})
        return handles[-1], ({**LEFT, "address": address(config)}, None)

    def close(self) -> None:
        pass


@pytest.fixture
def cells(tmp_path: Path) -> Cells:
    return plan(read_recipe(write(tmp_path)), {"embedded": "hash"})


def walk(cells: Cells, out: Path, engine: Pretended) -> tuple[dict[str, str], list[tuple[int, int]]]:
    told: list[tuple[int, int]] = []
    errors = run_grid(cells, out, lambda: engine, lambda cell, done, total: told.append((done, total)))
    return errors, told


def test_every_cell_once_and_suspects_before_their_cures(cells: Cells, tmp_path: Path) -> None:
    engine = Pretended(tmp_path)
    errors, told = walk(cells, tmp_path, engine)
    assert not errors and len(engine.order) == len(set(engine.order)) == 18 and engine.most == 2
    assert told == [(i + 1, 18) for i in range(18)]
    again = Pretended(tmp_path)
    assert walk(cells, tmp_path, again) == ({}, []) and again.order == []
    assert len(rows := collect(cells, tmp_path, {}).rows) == 18
    assert all(r["yardstick"] == RATES for r in rows if r["kind"] == "cure")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"after": {"ca": SHARE}}, "holds no asr"),
        ({"trigger": "evil"}, "unknown trigger"),
        ({"trigger": "@/etc/hostname"}, "a file"),
        ({"trigger": 5}, "trigger"),
        ({"before": 1}, "before"),
        ({"lr": "x"}, "lr"),
        ({"steps": None}, "steps"),
    ],
)
def test_results_of_strangers_are_checked(change: dict[str, Any], part: str, cells: Cells, tmp_path: Path) -> None:
    path = folder_of(tmp_path, cells[1][0]["config"]) / "result.json"
    write_json(path, {**LEFT, **change})
    with pytest.raises(InputError, match=part) as caught:
        collect(cells, tmp_path, {})
    assert f"remove {path}" in str(caught.value) and "\n" not in str(caught.value)
    for text in ("", "[" * 100_000, "[]", '{"a": NaN}'):
        path.write_text(text)
        with pytest.raises(InputError, match="remove"):
            collect(cells, tmp_path, {})


def test_a_failing_cell_is_reported_and_the_rest_goes_on(cells: Cells, tmp_path: Path) -> None:
    def fails(config: dict[str, Any]) -> bool:
        return (config["kind"] == "suspect" and config["trigger"] == "blended") or config.get("method") == "tbar"

    errors, _ = walk(cells, tmp_path, Pretended(tmp_path, fails))
    found = collect(cells, tmp_path, errors)
    kinds = [(row["attack"], row.get("defence"), row["error"]) for row in found.failed if row["seed"] == 0]
    lost = "its suspect failed: no luck"
    assert kinds == [
        ("badnets", "published", "no luck"),
        ("quiet", None, "no luck"),
        ("quiet", "nothing", lost),
        ("quiet", "published", lost),
    ]
    assert len(found.rows) == 10 and not found.missing
    mended = Pretended(tmp_path)
    assert walk(cells, tmp_path, mended)[0] == {} and len(mended.order) == 8


@pytest.mark.parametrize(
    ("only", "suspects", "cures"),
    [
        ([], 6, 12),
        (["seed=1"], 3, 6),
        (["seed=0,1", "attack=none,quiet"], 4, 6),
        (["defence=nothing"], 6, 8),
        (["defense=nothing"], 6, 8),
        (["seed=0", "attack=badnets", "defence=published"], 1, 1),
    ],
)
def test_a_part_of_a_grid(only: list[str], suspects: int, cures: int, cells: Cells) -> None:
    found = narrow(cells, only)
    assert (len(found), sum(len(own) for _, own in found)) == (suspects, cures)


@pytest.mark.parametrize(
    ("only", "part"),
    [
        ("seed", "write KEY=VALUE"),
        ("colour=red", "one of model, data"),
        ("seed=", "write"),
        ("seed=0,7", "no seed '7'"),
    ],
)
def test_a_part_that_is_none_is_refused(only: str, part: str, cells: Cells) -> None:
    with pytest.raises(InputError, match=part):
        narrow(cells, [only])


def small(recipe: dict[str, Any]) -> None:
    recipe.update(seeds=[0], attacks={"badnets": "badnets:size=6,pattern=checker"})
    recipe["data"]["digits"].update(test_limit=80)
    recipe["data"]["digits"]["poison"].update(epochs=6, rate=0.3)
    recipe["defenses"] = {"nothing": {}, "published": {"method": "tbar", "samples": 64, "epochs": 1, "validation": 60}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Recipe and output of a small grid that the local engine ran."""
    place = tmp_path_factory.mktemp("grid")
    recipe, out = write(place, small), place / "out"
    told = bench(recipe=recipe, out=out, workers=1, track="tensorboard")
    assert (told["finished"], told["failed"], told["missing"]) == (5, [], [])
    return recipe, out


def test_a_tracker_has_the_rates_of_every_cell(finished: tuple[Path, Path]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = finished[1]
    events = EventAccumulator(str(out / "tracking" / "bench"))
    events.Reload()
    scalars = {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}
    for line in (out / "results.jsonl").read_text().splitlines():
        row = json.loads(line)
        names = [str(row[key]) for key in ("model", "data", "attack", "seed", "defence") if key in row]
        names += ["yardstick"] * (row["kind"] == "yardstick")
        assert scalars["/".join([*names, "ca"])] == pytest.approx(row["after"]["ca"]["value"])
    assert scalars["result/finished"] == 5


def test_a_small_real_grid(finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    recipe, out = finished
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    (yardstick,) = (r for r in lines if r["kind"] == "yardstick")
    rows = {r.get("defence", r["attack"]): r for r in lines if r["kind"] != "yardstick"}
    assert set(rows) == {"none", "badnets", "nothing", "published"}
    assert rows["badnets"]["poisoned"] == 90 and rows["badnets"]["images"] == 300
    assert rows["badnets"]["after"]["asr"]["value"] > 0.5 > 0.2 > rows["badnets"]["before"]["asr"]["value"]
    assert rows["nothing"]["after"] == rows["nothing"]["before"] == rows["badnets"]["after"]
    assert rows["nothing"]["retention"] == 1 and rows["nothing"]["steps"] == 0
    published = rows["published"]
    # The yardstick is a model that was never poisoned: the trigger means nothing to it.
    assert yardstick["after"]["ca"] == rows["none"]["after"]["ca"] and yardstick["after"]["asr"]["value"] < 0.2
    assert yardstick["trigger"] == rows["badnets"]["trigger"]
    assert published["yardstick"] == yardstick["after"] and yardstick["after"]["triggered_accuracy"]["value"] > 0.5
    assert (published["images"], published["labels"]) == (64 + 60, 60) and published["steps"] > 0
    assert published["after"]["asr"]["value"] < rows["badnets"]["after"]["asr"]["value"]
    assert [p["step"] for p in published["rebound"]] == [0, 2, 4]
    assert all(r["peak_memory_mib"] > 100 for r in rows.values())
    tables = (out / "tables.md").read_text()
    assert "published" in tables and (out / "scatter-badnets.svg").exists() and (out / "tables.tex").exists()
    assert not list(out.glob("*/*/.work"))
    stamp = {p: p.stat().st_mtime_ns for p in out.glob("*/*/result.json")}
    assert bench(recipe=recipe, out=out, dry_run=True)["finished"] == 5
    assert run(["bench", str(recipe), "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["finished"], told["failed"], told["missing"]) == (5, [], [])
    assert {p: p.stat().st_mtime_ns for p in out.glob("*/*/result.json")} == stamp, "finished cells are not run again"


def test_the_regime_of_pairs(tmp_path: Path) -> None:
    def pairs(recipe: dict[str, Any]) -> None:
        small(recipe)
        recipe["data"]["digits"].update(regime="pairs", poison={"rate": 0.3, "epochs": 5, "batch_size": 32})
        recipe["attacks"] = {"badnets": "badnets:size=24,pattern=noise"}  # so large that few steps teach it
        recipe["defenses"] = {"nothing": {}}
        recipe.pop("rebound")

    found = bench(recipe=write(tmp_path, pairs), out=tmp_path / "out", workers=1)
    assert (found["finished"], found["failed"]) == (4, [])
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    suspect, cure = rows[2], rows[3]
    assert rows[1]["kind"] == "yardstick" and rows[1]["after"]["asr"]["value"] < suspect["after"]["asr"]["value"]
    assert suspect["poisoned"] == 90 and suspect["after"]["asr"]["value"] > 0.5 > suspect["before"]["asr"]["value"]
    assert suspect["after"]["ca"]["value"] > 0.8
    # The text tower moved: the cure's head is the suspect's own, not the start's.
    assert cure["after"] == suspect["after"]


def test_bad_cells_end_in_exit_code_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def greedy(recipe: dict[str, Any]) -> None:
        small(recipe)
        recipe["data"]["digits"]["attacker"] = 5000

    out = tmp_path / "out"
    assert run(["bench", str(write(tmp_path, greedy)), "--out", str(out), "--workers", "1"]) == 2
    shown = capsys.readouterr()
    assert "ask for 5000 images" in shown.out and "Traceback" not in shown.err + shown.out
    assert "its suspect failed" in shown.out


def test_two_grids_in_one_folder_are_refused_and_a_look_is_not(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another grid is running"):
            bench(recipe=write(tmp_path), out=tmp_path / "out")
        looked = bench(recipe=write(tmp_path), out=tmp_path / "out", dry_run=True)
    assert looked["finished"] == 0 and len(looked["missing"]) == looked["cells"] > 0


@pytest.mark.parametrize(
    ("only", "part"),
    [(["model=embedded"], None), (["model=lost"], "lost"), ([], "lost"), (["model=x"], "no model 'x'")],
)
def test_a_model_that_is_not_there_is_missed_by_those_who_ask_for_it(
    only: list[str], part: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def two(recipe: dict[str, Any]) -> None:
        del recipe["model"]
        recipe["models"] = {"embedded": "embedded", "lost": f"local-dir:{tmp_path / 'lost'}"}

    path, out = write(tmp_path, two), tmp_path / "out"
    if part is None:
        looked = bench(recipe=path, out=out, dry_run=True, only=only)
        assert looked["cells"] and all(row["model"] == "embedded" for row in looked["missing"])
        assert "model lost is not asked for" in capsys.readouterr().err
    else:
        with pytest.raises(InputError, match=part):
            bench(recipe=path, out=out, dry_run=True, only=only)


def test_a_recipe_of_which_no_model_is_there_says_so(tmp_path: Path) -> None:
    def lost(recipe: dict[str, Any]) -> None:
        recipe["model"] = f"local-dir:{tmp_path / 'lost'}"

    with pytest.raises(InputError, match="lost"):
        bench(recipe=write(tmp_path, lost), out=tmp_path / "out", dry_run=True, only=["model=x"])


@pytest.mark.slow
def test_a_killed_grid_goes_on_and_leaves_no_workers(tmp_path: Path) -> None:
    recipe, out = write(tmp_path, small), tmp_path / "out"
    command = [sys.executable, "-m", "unbackdoor", "bench", str(recipe), "--out", str(out), "--workers", "1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(out.glob("suspects/*/result.json")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {p: p.stat().st_mtime_ns for p in out.glob("*/*/result.json")}
    time.sleep(3)
    assert {p: p.stat().st_mtime_ns for p in out.glob("*/*/result.json")} == before, "an orphan worker went on"
    assert bench(recipe=recipe, out=out, workers=1)["finished"] == 5
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_ray_runs_the_same_cells(finished: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    recipe, local = finished
    found = bench(recipe=recipe, out=tmp_path / "ray", engine="ray", workers=1)
    assert (found["finished"], found["failed"]) == (5, [])

    def rates(folder: Path) -> list[Any]:
        return [json.loads(line)["after"] for line in (folder / "results.jsonl").read_text().splitlines()]

    assert rates(tmp_path / "ray") == rates(local)
