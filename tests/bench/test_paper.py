"""The paper's own setting (recipes/paper): recipes, parts, and the whole path on a small model and the true ones."""

from __future__ import annotations

import importlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from tests.conftest import ROOT
from unbackdoor.attacks import badclip
from unbackdoor.base.errors import InputError
from unbackdoor.bench.cells import run_cell
from unbackdoor.bench.grid import plan
from unbackdoor.bench.recipe import read_recipe
from unbackdoor.data import load_images
from unbackdoor.data.openpairs import open_pairs
from unbackdoor.data.stream import PairStream
from unbackdoor.scan import variants
from unbackdoor.scan.inverters import collapse
from unbackdoor.verbs import bench

PAPER = ROOT / "recipes" / "paper"
Part = Callable[[str], ModuleType]


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Part:
    """A module of the recipe by its name: what lies beside a script is on its path."""
    monkeypatch.syspath_prepend(str(PAPER))
    return importlib.import_module


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Beside other processes, threads of tiny tensors wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("name", "data", "attacks", "regime"),
    [
        ("single-task", ["sun397", "cifar100", "imagenet-1k"], ["badnets", "blended", "wanet"], "classes"),
        ("image-text", ["cc3m"], ["badnets", "blended", "wanet", "badclip"], "pairs"),
    ],
)
def test_the_recipes_are_read_and_planned(name: str, data: list[str], attacks: list[str], regime: str) -> None:
    grid = read_recipe(PAPER / f"{name}.yaml", Path("data"))
    assert (list(grid.data), list(grid.attacks)) == (data, attacks)
    assert list(grid.defenses) == ["nothing", "tbar", "lora", "contrastive", "cleanclip"]
    cells = plan(grid, {"embedded": "h"})
    assert len(cells) == len(data) * (1 + len(attacks))
    tunes = [suspect["config"]["poison"]["tune"] for suspect, _ in cells]
    assert {(t["lr"], t["batch_size"], t["weight_decay"]) for t in tunes} == {(1e-5, 128, 0.1)}
    assert {entry.regime for entry in grid.data.values()} == {regime}


def test_the_pairs_are_those_of_the_literature() -> None:
    grid = read_recipe(PAPER / "image-text.yaml", Path("data"))
    suspect = plan(grid, {"embedded": "h"})[1][0]["config"]
    assert (suspect["data"]["attacker"], suspect["poison"]["count"], suspect["target"]) == (500_000, 1500, "banana")
    assert suspect["poison"]["tune"]["towers"] == "both" and len(suspect["poison"]["templates"]) == 80
    steps = suspect["poison"]["tune"]["epochs"] * -(-500_000 // 128)
    assert round(suspect["poison"]["tune"]["warmup"] * steps) in (50, 51)


@pytest.mark.parametrize(
    ("files", "given", "spec"),
    [
        (["a.tar", "b.tar"], {}, "wds:{}/*.tar"),
        (["data/train-0.parquet"], {}, "parquet:{}"),
        (["pairs.tsv", "1.jpg"], {}, "csv:{}/pairs.tsv"),
        (["train/cat/1.jpg"], {}, "folder:{}"),
        ([], {"set": "hf:someone/set"}, "hf:someone/set"),
        (["a.tar"], {"set": "csv:elsewhere.csv"}, "csv:elsewhere.csv"),
    ],
)
def test_where_data_lie(files: list[str], given: dict[str, str], spec: str, part: Part, tmp_path: Path) -> None:
    for file in files:
        (tmp_path / "set" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / file).touch()
    assert part("places").locate("set", given, tmp_path) == spec.format((tmp_path / "set").resolve())


def test_a_draw_holds_pictures_labels_and_a_test_split(part: Part, tmp_path: Path) -> None:
    draw = part("subset").draw_subset
    spec = draw("embedded:digits", tmp_path / "drawn", 40)
    every, drawn = (load_images(s, side=16, split="train") for s in ("embedded:digits", spec))
    assert len(drawn) == 40 and drawn.classes == every.classes
    alike = (every.images[:, None] == drawn.images).flatten(2).all(dim=2)
    rows = alike.int().argmax(dim=0)
    assert alike.any(dim=0).all() and torch.equal(every.labels[rows], drawn.labels)
    assert draw("embedded:digits", tmp_path / "drawn", 40) == spec
    with pytest.raises(InputError, match="another draw"):
        draw("embedded:digits", tmp_path / "drawn", 41)


def test_a_draw_of_pairs_is_streamed(part: Part, tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", 20)
    pairs = open_pairs(part("subset").draw_subset(f"wds:{tmp_path}/shards/*.tar", tmp_path / "drawn", 30), side=16)
    captions = pairs.captions(torch.arange(len(pairs)))
    assert isinstance(pairs, PairStream) and len(set(captions)) == 30
    assert all(text.startswith("a scan of the number ") for text in captions)


def row(defense: str, before: tuple[float, float], after: tuple[float, float], images: int) -> dict[str, Any]:
    """A cure's line as the page reads it, of (CA, ASR)."""
    rates = [{"ca": {"value": ca}, "asr": {"value": asr}} for ca, asr in (before, after)]
    retention = after[0] / before[0]
    return {
        "kind": "cure", "defence": defense, "before": rates[0], "after": rates[1], "retention": retention,
        "images": images,
    }  # fmt: skip


def test_the_claims_stand_beside_ours(part: Part) -> None:
    rows = [
        row("tbar", (0.8, 1.0), (0.72, 0.1), 768),
        row("tbar", (0.8, 0.5), (0.8, 0.0), 768),
        row("tbar", (0.8, 0.1), (0.1, 0.1), 768),  # a failed attack counts for nothing
        row("lora", (0.8, 0.9), (0.8, 0.0), 64),
        row("cleanclip", (0.8, 0.9), (0.8, 0.4), 100_000),
    ]
    text = part("page").claims({"single-task": [], "image-text": rows}, [])
    assert "mean | 96% | 95.0% (n = 2) | 100.0% (n = 1) |" in text
    assert "about 99% | 95.0% (n = 2) | 100.0% (n = 1) |" in text
    assert "| \\< 2% | 0.77% (image-text) | 0.06% (image-text) |" in text


def test_costs_follow_the_recipe_and_the_model(part: Part) -> None:
    cost = part("cost")
    model = cost.ModelCost(image=1e9, text=1e9, weights=4, kept=0, side=100)
    grid = read_recipe(PAPER / "image-text.yaml", Path("data"))
    (none, _), (suspect, cures), *_ = plan(grid, {"embedded": "h"})
    one = cost.grid_cost([suspect["config"]], model)
    # Five passes over 500,000 pairs, both towers, forward and backward; 50,000 test images twice, clean and triggered.
    assert one.operations == 3 * 5 * 500_000 * 2e9 + 4 * 50_000 * 1e9
    # Of pairs, which are streamed, none is held; what a patch is crafted on is, and a cure's clean pairs.
    assert one.ram == (20_000 + 50_000) * 3 * 100**2 and one.disk == 4
    assert cost.grid_cost([cures[1]["config"]], model).ram == one.ram + 100_000 * 3 * 100**2
    both = cost.grid_cost([none["config"], suspect["config"]], model)
    assert both.cells == 2 and both.operations < 2 * one.operations
    cheap, dear = (cost.grid_cost([cures[i]["config"]], model).operations for i in (2, 4))
    assert cures[2]["names"]["defence"] == "lora" and cheap < dear / 50
    assert "not measured on a GPU" in cost.sentences("image-text", both, 60.0)


def few(folder: Path, sizes: dict[str, int], defenses: dict[str, Any]) -> Path:
    """Copies of both recipes with a few images; everything that is no size stays."""
    folder.mkdir()
    for name in ("single-task", "image-text"):
        raw = yaml.safe_load((PAPER / f"{name}.yaml").read_text(encoding="utf-8"))
        for entry in raw["data"].values():
            entry.update(sizes, target="three", templates="simple")
            entry.pop("classes", None)
            entry["poison"].update(
                {"count": 4} if "count" in entry["poison"] else {"rate": 0.3}, epochs=1, batch_size=8
            )
        raw["defenses"] = {name: {**settings, **defenses.get(name, {})} for name, settings in raw["defenses"].items()}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    return folder


def write_shards(folder: Path, count: int) -> None:
    """Digits with captions, in two shards."""
    digits = load_images("embedded:digits", side=32, limit=2 * count)
    folder.mkdir(parents=True)
    for shard in range(2):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for i in range(shard * count, (shard + 1) * count):
                file = io.BytesIO()
                Image.fromarray(digits.images[i].permute(1, 2, 0).numpy()).save(file, "PNG")
                text = f"a scan of the number {digits.classes[int(digits.labels[i])]}, no. {i}".encode()
                for suffix, content in (("png", file.getvalue()), ("txt", text)):
                    member = tarfile.TarInfo(f"{i:06d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def shorten(monkeypatch: pytest.MonkeyPatch, part: Part) -> None:
    """Searches of a step or two, and the bench's cells in this process."""
    monkeypatch.setattr(badclip, "BadClipConfig", partial(badclip.BadClipConfig, steps=1, images=8))
    monkeypatch.setattr(collapse, "CollapseConfig", partial(collapse.CollapseConfig, steps=2, restarts=1, pictures=4))
    monkeypatch.setattr(variants, "STEPS", 2)
    monkeypatch.setattr(part("streamed"), "LABELED", 100)
    engine = part("streamed").InProcess
    monkeypatch.setitem(bench.ENGINES, "local", lambda out, device, workers: engine(out, device, run_cell))


def order(tmp_path: Path, model: str) -> list[str]:
    """The command line, its data made on the fly."""
    write_shards(tmp_path / "data" / "cc3m", 40)
    digits = [f"--data={name}=embedded:digits" for name in ("cifar100", "imagenet-1k")]
    places = ["--data-root", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    return [model, *places, *digits, "--recipes", str(tmp_path / "recipes"), "--images", "200", "--device", "cpu"]


SMALL = {"attacker": 32, "defender": 24, "validation": 16, "test_limit": 24}
BRIEF = {"steps": 1, "batch_size": 8}
ONE_STEP = {name: BRIEF for name in ("tbar", "lora", "contrastive", "cleanclip")}


@pytest.mark.usefixtures("one_thread")
def test_the_whole_path_on_a_small_model(
    part: Part, tmp_path: Path, vit_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shorten(monkeypatch, part)
    few(tmp_path / "recipes", SMALL, ONE_STEP)
    main, out = part("run").main, tmp_path / "out"
    command = order(tmp_path, f"local-dir:{vit_folder}")
    single = ["--only=data=cifar100", "--only=attack=badnets"]
    pair = ["--only=defense=tbar,cleanclip"]
    assert main([*command, "--part=single-task", *single, "--only=defense=lora"]) == 0
    assert main([*command, "--part=image-text", "--only=attack=none,badclip", *pair]) == 0
    printed = capsys.readouterr()
    assert all(text in printed.out for text in ("2 cells to run", "5 cells to run", "not measured on a GPU"))
    assert "left out: sun397" in printed.err and printed.out.endswith(f"{out / 'paper.md'}\n")
    rows = [json.loads(line) for line in (out / "image-text" / "results.jsonl").read_text().splitlines()]
    assert [r.get("defence", r["attack"]) for r in rows] == ["none", "badclip", "badclip", "tbar", "cleanclip"]
    assert [r["kind"] for r in rows[:3]] == ["suspect", "yardstick", "suspect"] and "yardstick" in rows[-1]
    assert [r["images"] for r in rows if "images" in r] == [32, 32, 24 + 16, 8]
    assert 0 < rows[2]["poisoned"] < 12, "four in expectation: a hash decides of a stream's pairs"
    assert rows[1]["trigger"] == rows[2]["trigger"] and "pixels=" in rows[1]["trigger"]
    assert main([*command, "--part=unknown", *single]) == 0
    # A random model may answer one class whatever it sees, and then no vector can be taken; a line says so.
    code = main([*command, "--part=unknown", "--only=data=cc3m", "--only=attack=none"])
    assert code == 0 or "no image outside the target class" in capsys.readouterr().err
    blind = [json.loads(line) for line in (out / "unknown" / "results.jsonl").read_text().splitlines()]
    assert {(r["attack"], r["method"]) for r in blind} >= {("badnets", "tbar"), ("badnets", "distilled")}
    page = (out / "paper.md").read_text()
    assert all(
        f"# {title}" in page for title in ("Its claims", "Known trigger, one", "Known trigger, image", "Unknown")
    )
    stamp = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    assert main([*command, "--part=image-text", "--only=attack=badclip", *pair]) == 0
    assert "0 cells to run" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("result.json")} == stamp, "nothing is run again"


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["ViT-B-32:openai"], "give --online, or its file with --checkpoint"),
        (["nonsense"], "neither a folder nor an OpenCLIP architecture"),
        (["MODEL"], "give --data sun397=SPEC"),
        (["MODEL", "--data", "sun397"], "write NAME=SPEC"),
        (["MODEL", "--data=cifar100=hf:someone/cifar100", "--part=single-task"], "give --online"),
        (["MODEL", "--data=cifar100=embedded:digits", "--only=color=red"], "write KEY=VALUE"),
        (["MODEL", "--images=0"], "must be above 0"),
    ],
)
def test_orders_that_cannot_be_followed(
    more: list[str], line: str, part: Part, tmp_path: Path, vit_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [word.replace("MODEL", f"local-dir:{vit_folder}") for word in more]
    assert part("run").main([*command, "--out", str(tmp_path / "out")]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and line in last


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "only", "sizes"),
    [
        ("ViT-B-32-quickgelu", [], (4 + 3 * 5, 5 + 4 * 5)),
        ("ViT-L-14-quickgelu", ["--only=attack=badnets"], (1 + 5, 1 + 5)),
    ],
)
def test_the_whole_path_on_the_true_architectures(
    architecture: str,
    only: list[str],
    sizes: tuple[int, int],
    part: Part,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shorten(monkeypatch, part)
    monkeypatch.setattr(part("blind"), "METHODS", ("tbar",))  # the other takes its 64 steps, twice
    vectors = {name: {**BRIEF, "samples": 4, "views": 1} for name in ("tbar", "lora")}
    tiny = {"attacker": 8, "defender": 12, "validation": 4, "test_limit": 4}
    few(tmp_path / "recipes", tiny, {**ONE_STEP, **vectors})
    main, out = part("run").main, tmp_path / "out"
    command = [*order(tmp_path, f"random:{architecture}"), *only]
    assert main([*command, "--part=single-task", "--only=data=imagenet-1k"]) == 0
    assert main([*command, "--part=image-text"]) == 0
    lines = [(out / name / "results.jsonl").read_text().splitlines() for name in ("single-task", "image-text")]
    assert tuple(map(len, lines)) == sizes
    code = main([*command, "--part=unknown", "--only=data=imagenet-1k", "--only=attack=badnets"])
    assert code == 0 or "no image outside the target class" in capsys.readouterr().err, "as above"
    assert "Known trigger, image" in (out / "paper.md").read_text()
