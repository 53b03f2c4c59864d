"""What users and scripts rely on, kept as files: help texts, JSON keys of every verb, addresses of bench cells.

A change that is meant is written down by `UNBACKDOOR_GOLDEN=write python -m pytest tests/golden`, and seen in the diff.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import click
import pytest
from jsonschema import Draft202012Validator

from tests.conftest import ROOT, vit_config, write_open_clip
from tests.towers.steps import few_steps
from unbackdoor.bench.grid import plan
from unbackdoor.bench.recipe import read_recipe
from unbackdoor.bench.store import address
from unbackdoor.cli.main import cli, run
from unbackdoor.verbs.schemas import FOLDER, RESULTS

HERE = Path(__file__).parent
WRITE = os.environ.get("UNBACKDOOR_GOLDEN") == "write"


def check(name: str, text: str) -> None:
    path = HERE / name
    if WRITE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"{name} is not kept yet"
    assert text == path.read_text(encoding="utf-8"), f"{name} has changed; see the top of {Path(__file__).name}"


def commands() -> list[tuple[str, ...]]:
    """Every command, those of `weights` too."""
    context = click.Context(cli)
    found: list[tuple[str, ...]] = [()]
    for name in cli.list_commands(context):
        found.append((name,))
        inner = cli.get_command(context, name)
        if isinstance(inner, click.Group):
            found += [(name, part) for part in sorted(inner.commands)]
    return found


@pytest.mark.parametrize("command", commands(), ids=lambda words: "-".join(words) or "unbackdoor")
def test_help(command: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert run([*command, "--help"]) == 0
    check(f"help/{'-'.join(command) or 'unbackdoor'}.txt", capsys.readouterr().out)


def test_nothing_is_kept_of_commands_that_are_gone() -> None:
    kept = {path.stem for path in (HERE / "help").iterdir()}
    assert kept == {"-".join(words) or "unbackdoor" for words in commands()}


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes" / "bench").glob("*.yaml")), ids=lambda path: path.stem)
def test_addresses_of_bench_cells(recipe: Path) -> None:
    """A cell that moved is measured again by everybody who has it."""
    grid = read_recipe(recipe, Path("/data"))
    cells = plan(grid, dict.fromkeys(grid.models, "hash"))
    rows = [
        f"{address(cell['config'])} {' '.join(str(v) for v in cell['names'].values())}"
        for suspect, own in cells
        for cell in (suspect, *own)
    ]
    whole = hashlib.sha256("\n".join(rows).encode()).hexdigest()
    check(f"cells/{recipe.stem}.txt", "\n".join([f"{len(rows)} cells, sha256 {whole}", *rows[:12]]) + "\n")


def keys(value: Any, at: str = "") -> set[str]:
    """Dotted names of all that a JSON value holds; what lists hold is called alike."""
    if isinstance(value, dict):
        return {at} - {""} | {key for name, inner in value.items() for key in keys(inner, f"{at}.{name}".strip("."))}
    if isinstance(value, list):
        return {at} | {key for inner in value if isinstance(inner, dict | list) for key in keys(inner, f"{at}[]")}
    return {at}


ATTACK = ["--trigger", "badnets:size=6", "--target", "three", "--data", "embedded:digits"]
SHORT = ["--samples", "16", "--validation", "16", "--test-limit", "20"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, poisoned for a moment, and its vector."""
    folder = tmp_path_factory.mktemp("golden")
    model = write_open_clip(folder / "model", vit_config())
    poison = ["--limit", "60", "--test-limit", "20", "--epochs", "1", "--batch-size", "16"]
    assert run(["poison", "--model", str(model), *ATTACK, *poison, "--out", str(folder / "poison")]) == 0
    suspect = ["--model", str(folder / "poison"), *ATTACK]
    out = str(folder / "vector.safetensors")
    assert run(["vector", *suspect, "--samples", "16", "--epochs", "1", "--out", out]) == 0
    return folder


# Runs as short as can be, by name; {place} is the folder above, {out} one of the run's own. The model knows nothing:
# a scan has no answer then, and there is nothing to remove.
RUNS = {
    "info-model": "info --model {place}/model",
    "info-data": "info --data embedded:digits",
    "info-trigger": "info --trigger badnets",
    "evaluate": "evaluate --model {place}/poison {attack}",
    "poison": "poison --model {place}/model {attack} --limit 60 --test-limit 20 --epochs 1 --out {out}",
    "poison-pairs": "poison --regime pairs --model {place}/model {attack} --limit 60 --test-limit 20 --epochs 1 "
    "--out {out}",
    "craft": "craft --model {place}/model --data embedded:digits --target three --steps 2 --limit 40 --test-limit 20 "
    "--out {out}",
    "vector": "vector --model {place}/poison {attack} --samples 16 --epochs 1 --out {out}/vector.safetensors",
    "unlearn": "unlearn --model {place}/poison {attack} {short} --epochs 1 --out {out}",
    "unlearn-vector": "unlearn --model {place}/poison {attack} --vector {place}/vector.safetensors --alpha 0.5 "
    "--test-limit 20 --out {out}",
    "disentangle": "disentangle --model {place}/model --clean {place}/poison --triggered {place}/vector.safetensors "
    "{attack} --points 3 --limit 16 --out {out}",
    "locate": "locate --model {place}/poison --vector {place}/vector.safetensors {attack} --limit 16 --out {out}",
    "scan": "scan --model {place}/poison --data embedded:digits --inverter patch --limit 24 --out {out}",
    "vet": "vet {place}/poison --data embedded:digits --inverter patch --limit 24 --out {out}",
    "unlearn-scan": "unlearn --model {place}/poison --data embedded:digits --scan {place}/finding --force --rounds 1 "
    "{short} --out {out}",
    "convert": "convert --model {place}/model --to hf --out {out}",
    "weights-inspect": "weights inspect {place}/model {place}/poison/model",
    "weights-diff": "weights diff {place}/poison/model {place}/model --out {out}.safetensors",
    "weights-apply": "weights apply {place}/poison/model {place}/vector.safetensors --alpha 0.5 --out {out}",
    "weights-combine": "weights combine {place}/vector.safetensors --out {out}.safetensors",
    "weights-lora": "weights lora {place}/vector.safetensors --out {out}",
}


# Whose JSON Schema a run's result keeps to; without one here it is that of the run's name.
SCHEMAS = {
    "poison": "plant",
    "poison-pairs": "plant",
    "unlearn": "cure",
    "unlearn-vector": "cure",
    "disentangle": "map",
    "scan": "finding",
    "unlearn-scan": "blind-cure",
    "info-model": "model-info",
    "info-data": "data-info",
    "info-trigger": "trigger-info",
    "weights-diff": "weights",
    "weights-apply": "weights",
    "weights-combine": "weights",
}


def _name_another_target(scan: Path, out: Path) -> None:
    """A finding of a class that the model answers nothing with: where all are of the target, none can be cured."""
    shutil.copytree(scan, out)
    finding = json.loads((out / "finding.json").read_text())
    finding["target"]["name"] = "seven" if finding["target"]["name"] != "seven" else "two"
    (out / "finding.json").write_text(json.dumps(finding))


def check_result(name: str, value: dict[str, Any]) -> None:
    """A result keeps to its schema, and is read and written again as it was, its keys in their order."""
    Draft202012Validator(json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))).validate(value)
    assert json.dumps(RESULTS[name].read(value).as_dict()) == json.dumps(value)


@pytest.mark.parametrize("name", RUNS)
def test_keys(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of what a verb prints under --json, and of the files that it leaves."""
    out = place / "runs" / name
    if name == "vector":
        out.mkdir(parents=True)
    if name == "unlearn-scan":
        _name_another_target(place / "runs" / "scan", place / "finding")
    words = RUNS[name].format(place=place, out=out, attack=" ".join(ATTACK), short=" ".join(SHORT)).split()
    with few_steps():
        code = run([*words, "--json"])
    shown = capsys.readouterr()
    assert code == (4 if name in ("scan", "vet") else 0), shown.err
    parts = {"stdout": json.loads(shown.out)}
    if out.is_dir() and name != "convert":  # what it writes is a library's, with the vocabulary
        parts |= {path.name: json.loads(path.read_text()) for path in sorted(out.glob("*.json"))}
    schema = SCHEMAS.get(name, name)
    for part in parts.keys() & {"stdout", RESULTS[schema].file}:
        check_result(schema, parts[part])
    text = "".join(f"[{part}]\n" + "".join(f"{key}\n" for key in sorted(keys(v))) for part, v in parts.items())
    check(f"keys/{name}.txt", text.replace(str(place), "{place}"))
