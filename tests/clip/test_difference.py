"""Models stored as differences come back, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from unbackdoor import load
from unbackdoor.base.errors import InputError
from unbackdoor.clip.difference import KIND, save_difference
from unbackdoor.weights.files import read_tensors, state_hash, write_tensors


def changed_copy(folder: Path) -> tuple[object, object]:
    base = load(str(folder))
    copy = base.clone()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in copy.image_parameters().values():
            p.add_(0.01 * torch.randn(p.shape, generator=generator))
    return base, copy


def test_round_trip(open_clip_folder: Path, tmp_path: Path) -> None:
    base, copy = changed_copy(open_clip_folder)
    path = tmp_path / "member.safetensors"
    found = save_difference(base, copy, path)  # type: ignore[arg-type]
    again = load(str(path))
    assert state_hash(again.state()) == found
    for name, t in copy.state().items():  # type: ignore[attr-defined]
        torch.testing.assert_close(again.state()[name], t, atol=2e-5, rtol=0)
    stored, _ = read_tensors(path)
    assert set(stored) == set(copy.image_parameters()), "what did not change is not stored"  # type: ignore[attr-defined]
    assert all(t.dtype == torch.float16 for t in stored.values())


@pytest.mark.parametrize(
    ("facts", "part"),
    [
        ({}, "a bare weight file"),
        ({"kind": KIND, "base": "hf-hub:some/model"}, "on the network"),
        ({"kind": KIND, "base": "member.safetensors"}, "is a weight file"),
        ({"kind": KIND, "base": "{base}", "base_hash": "0"}, "another"),
        ({"kind": KIND, "base": "{base}", "base_hash": "{hash}", "hash": "0"}, "damaged"),
    ],
)
def test_what_is_refused(facts: dict[str, str], part: str, vit_folder: Path, tmp_path: Path) -> None:
    places = {"{base}": str(vit_folder), "{hash}": state_hash(load(str(vit_folder)).state())}
    path = tmp_path / "member.safetensors"
    write_tensors(
        path, {"x": torch.zeros(1)} if part != "damaged" else {}, {k: places.get(v, v) for k, v in facts.items()}
    )
    with pytest.raises(InputError, match=part) as caught:
        load(str(path))
    assert "\n" not in str(caught.value)


def test_tensors_that_modules_share(vit_folder: Path, tmp_path: Path) -> None:
    base = load(str(vit_folder))
    for clip in (base, copy := base.clone()):
        blocks = clip.model.visual.transformer.resblocks
        blocks[1].mlp.c_fc.weight = blocks[0].mlp.c_fc.weight
    with torch.no_grad():
        copy.model.visual.transformer.resblocks[0].mlp.c_fc.weight.add_(0.5)
    found = save_difference(base, copy, tmp_path / "member.safetensors")
    assert found == state_hash(copy.state())
