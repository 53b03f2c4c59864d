"""`craft` writes a patch that other verbs take; `poison` crafts a blank one by itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unbackdoor import InputError, craft, parse_trigger
from unbackdoor.attacks import badclip
from unbackdoor.triggers.badclip import BadClip
from unbackdoor.verbs.poison import poison

SHARED = {"data": "embedded:digits", "target": "three", "limit": 200, "test_limit": 40}


def test_craft_writes_what_it_found(vit_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = craft(model=str(vit_folder), trigger="badclip:size=6", steps=2, out=out, **SHARED)  # type: ignore[arg-type]
    made = parse_trigger(f"@{out / 'trigger.txt'}")
    assert isinstance(made, BadClip) and made.size == 6 and made.spec() == result["trigger"]
    drawn = torch.from_numpy(np.array(Image.open(out / "patch.png"))).permute(2, 0, 1)
    assert torch.equal(drawn, (made.patch() * 255).round().byte())
    assert json.loads((out / "result.json").read_text()) == result
    assert 0 < result["after"]["n"]["asr"] <= 40 and result["before"]["ca"] == result["after"]["ca"]
    assert json.loads((out / "manifest.json").read_text())["config"]["craft"]["steps"] == 2
    assert not (out / ".work").exists()


def test_other_triggers_need_no_crafting(vit_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only badclip does"):
        craft(model=str(vit_folder), trigger="blended", out=tmp_path / "out", **SHARED)  # type: ignore[arg-type]


def test_poison_crafts_a_blank_patch(vit_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = badclip.BadClipConfig
    monkeypatch.setattr(badclip, "BadClipConfig", lambda seed: quick(steps=2, seed=seed))
    results = [
        poison(
            model=str(vit_folder), trigger="badclip:size=6", out=tmp_path / name, epochs=1, poison_rate=0.1, seed=seed,
            **SHARED,  # type: ignore[arg-type]
        )
        for name, seed in (("a", 0), ("b", 1))
    ]  # fmt: skip
    once, other = (parse_trigger(r["trigger"]) for r in results)
    assert isinstance(once, BadClip) and once.crafted and once != other
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["config"]["trigger"] == once.spec()
