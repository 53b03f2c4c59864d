"""Rates and hashes called "after" are those of the file that was written, in whatever types it is stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.conftest import vit_config, write_open_clip
from unbackdoor import evaluate, info, load, poison, unlearn
from unbackdoor.base.errors import InputError
from unbackdoor.bench.cells import run_cell
from unbackdoor.bench.recipe import DataEntry, identity
from unbackdoor.weights.files import state_hash

ATTACK = {"data": "embedded:digits", "trigger": "badnets:size=6,pattern=white", "target": "three"}
TYPES = [torch.float32, torch.float16, torch.bfloat16]


def check(out: Path, result: dict) -> None:  # type: ignore[type-arg]
    """`out` holds a model whose hash and rates are those that were told."""
    written = json.loads((out / "manifest.json").read_text())["hashes"]["weights_after"]
    assert written == info(model=str(out))["weights_hash"]
    again = evaluate(model=str(out), limit=50, **ATTACK)
    assert written == again["hashes"]["weights"]
    for rate in ("ca", "asr", "triggered_accuracy"):
        assert again[rate]["value"] == result["after"][rate], rate


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_after_is_what_was_written(dtype: torch.dtype, tmp_path: Path) -> None:
    model = write_open_clip(tmp_path / "model", vit_config(), dtype)
    # So coarse that rates of the weights before rounding would be others.
    how = {"limit": 300, "test_limit": 50, "epochs": 2, "batch_size": 16, "lr": 2e-3}
    suspect = poison(model=str(model), out=tmp_path / "suspect", poison_rate=0.2, **how, **ATTACK)
    check(tmp_path / "suspect", suspect)
    pairs = poison(model=str(model), out=tmp_path / "pairs", regime="pairs", poison_rate=0.2, **how, **ATTACK)
    check(tmp_path / "pairs", pairs)
    for name, result, share in (("suspect", suspect, 225), ("pairs", pairs, pairs["trained_on"])):  # 3/4 are taught
        notes = json.loads((tmp_path / name / "manifest.json").read_text())["notes"]
        assert (notes["poisoned"], notes["trained_on"]) == (result["poisoned"], share)
    cure = {"method": "anchored", "alpha": 0.5, "samples": 32, "epochs": 1, "test_limit": 50}
    check(tmp_path / "cure", unlearn(model=str(tmp_path / "suspect"), out=tmp_path / "cure", **cure, **ATTACK))
    assert {t.dtype for t in load(str(tmp_path / "cure")).stored().values() if t.is_floating_point()} == {dtype}


@pytest.mark.parametrize("kind", ["suspect", "member"])
def test_cells_measure_what_they_wrote(kind: str, tmp_path: Path) -> None:
    model = write_open_clip(tmp_path / "model", vit_config(), torch.bfloat16)
    entry = DataEntry("embedded:digits", 128, target="three", test_limit=50)
    config = {
        "kind": kind,
        "model": str(model),
        "weights": state_hash(load(str(model)).state()),
        "data": identity(entry, without=("defender", "validation")),
        "poison": {"rate": 0.2, "clean_label": False, "tune": {"epochs": 2, "batch_size": 16, "lr": 2e-3}},
        "trigger": ATTACK["trigger"],
        "target": "three",
    }
    result = run_cell(tmp_path / "out", config)
    (file,) = (tmp_path / "out").glob("suspects/*/model" if kind == "suspect" else "members/*/member.safetensors")
    again = evaluate(model=str(file), limit=50, **ATTACK)
    assert again["hashes"]["weights"] == result.get("weights", again["hashes"]["weights"])
    for rate in ("ca", "asr", "triggered_accuracy"):
        assert again[rate] == result["after"][rate], rate


def test_what_its_type_cannot_hold_is_refused(tmp_path: Path) -> None:
    clip = load(str(write_open_clip(tmp_path / "model", vit_config(), torch.float16)))
    with torch.no_grad():
        clip.model.visual.proj.fill_(1e6)
    with pytest.raises(InputError, match="not finite in float16"):
        clip.round_as_stored()
