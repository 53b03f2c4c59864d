"""What every registered defense keeps to, on tiny random models."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import made_odd
from tests.defenses.conftest import tiny_defender
from unbackdoor import load
from unbackdoor.base.errors import InputError
from unbackdoor.base.work import Work
from unbackdoor.defenses import defense, defense_config, defense_names
from unbackdoor.defenses.base import Cure
from unbackdoor.weights.files import state_hash

CHEAP: dict[str, dict[str, Any]] = {
    "nothing": {},
    "interpolate": {"beta": 0.25},
    "distilled": {"alpha": 1.0},
    "lora": {"alpha": 1.0},
    "anchored": {"alpha": 1.0},
    "tbar": {"alpha": 1.0},
    "supervised": {"probe_steps": 2},
    "anp": {"threshold": 2.0, "drop": 1.0},
    "ibau": {"climbs": 1, "fixed_point": 1},
    "roclip": {"every": 1},
}
UNTRAINED = ("nothing", "interpolate")
TOWER_STAYS = ("nothing", "linear-probe")
# What is taken away from the defender who has everything → who cannot do without it.
NEEDS = {
    "attack": {"distilled", "lora", "anchored", "tbar", "ascent"},
    "pretrained": {"interpolate"},
    "training": {"abl"},
}


def cheap(name: str) -> Any:
    short = {} if name in UNTRAINED else {"steps": 2, "batch_size": 8, "lr": 1e-3}
    return defense_config(name, {**short, **CHEAP.get(name, {})})


def run(name: str, folder: Path, work: Work | None = None) -> tuple[Any, Cure]:
    clip = load(str(folder))
    return clip, defense(name).defend(clip, tiny_defender(clip), cheap(name), work or Work())


@pytest.mark.parametrize("name", defense_names())
def test_every_defense_keeps_the_model_a_model(name: str, tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tiny_folders["vit"]
    before = load(str(folder))
    layout = {n: (t.shape, t.dtype) for n, t in before.state().items()}
    before.model.text_projection.requires_grad_(False)
    data = tiny_defender(before)
    flags = {n: p.requires_grad for n, p in before.model.named_parameters()}
    start = state_hash(before.state())
    cure = defense(name).defend(before, data, cheap(name), Work())
    assert {n: (t.shape, t.dtype) for n, t in before.state().items()} == layout
    assert all(torch.isfinite(t).all() for t in before.state().values())
    assert {n: p.requires_grad for n, p in before.model.named_parameters()} == flags
    assert all(p.grad is None for p in before.model.parameters())
    assert not any(m.training for m in before.model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in before.model.modules())
    assert (state_hash(before.state()) == start) == (name in TOWER_STAYS), "only some defenses may leave the weights"

    have = len(data.clean) + len(data.validation) + (len(data.training()) if data.training else 0)
    assert 0 <= cure.labels <= cure.images <= have
    assert (cure.steps > 0) == (name not in UNTRAINED) and cure.seconds >= 0
    if cure.head is not None:
        assert cure.head.shape == data.head.shape and not cure.head.requires_grad

    again, second = run(name, folder, Work(tmp_path, "key"))
    other = state_hash(before.state()), None if cure.head is None else cure.head.tolist()
    assert (state_hash(again.state()), None if second.head is None else second.head.tolist()) == other, "not repeatable"
    resumed, third = run(name, folder, Work(tmp_path, "key"))
    other = state_hash(resumed.state()), None if third.head is None else third.head.tolist()
    assert other == (state_hash(again.state()), None if second.head is None else second.head.tolist()), "resume differs"


@pytest.mark.parametrize("name", defense_names())
def test_odd_towers_too(name: str, tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    """Parameters that take no part, frozen and shared ones: every defense runs, and resumes to the same weights."""
    hashes = []
    for _ in range(2):
        torch.manual_seed(0)
        clip = made_odd(load(str(tiny_folders["vit"])))
        before = {n: t.clone() for n, t in clip.state().items()}
        cure = defense(name).defend(clip, tiny_defender(clip), cheap(name), Work(tmp_path, "key"))
        idle = [n for n in before if n.startswith(("visual.idle.", "visual.mask", "visual.scalar", "visual.table"))]
        assert len(idle) == 7
        if name not in ("interpolate", "par"):  # one mixes all weights, the other's shifts a norm of them
            assert all(torch.equal(before[n], clip.state()[n]) for n in idle)
        blocks = clip.model.visual.transformer.resblocks
        assert blocks[0].mlp.c_fc.weight is blocks[1].mlp.c_fc.weight
        if "layers" in cure.facts:
            assert not any("idle" in layer for layer in cure.facts["layers"])
        hashes.append(state_hash(clip.state()))
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("name", ["fine-pruning", "anp", "ibau", "par"])
def test_convolutional_towers_too(name: str, tiny_folders: dict[str, Path]) -> None:
    before = load(str(tiny_folders["resnet"]))
    clip, _ = run(name, tiny_folders["resnet"])
    moved = {n for n, t in clip.state().items() if not torch.equal(t, before.state()[n])}
    assert not [n for n in moved if "running" in n or "num_batches" in n], "BatchNorm statistics stand still"
    assert all(torch.isfinite(t).all() for t in clip.state().values())


@pytest.mark.parametrize("missing", NEEDS)
def test_missing_needs_are_one_clear_line(missing: str, tiny_folders: dict[str, Path]) -> None:
    clip = load(str(tiny_folders["vit"]))
    data = replace(tiny_defender(clip), **{missing: None})
    for name in NEEDS[missing]:
        with pytest.raises(InputError, match=f"{name}|tbar") as error:
            defense(name).defend(clip, data, cheap(name), Work())
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", sorted(set(defense_names()) - NEEDS["attack"] - {"nothing", "interpolate", "abl", "linear-probe"})
)
def test_images_without_labels_or_captions_are_refused(name: str, tiny_folders: dict[str, Path]) -> None:
    clip = load(str(tiny_folders["vit"]))
    data = tiny_defender(clip)
    bare = replace(data.clean, labels=torch.full_like(data.clean.labels, -1), captions=None)
    with pytest.raises(InputError, match="label"):
        defense(name).defend(clip, replace(data, clean=bare), cheap(name), Work())


@pytest.mark.parametrize("name", defense_names())
def test_names_and_settings(name: str) -> None:
    with pytest.raises(InputError, match="no setting 'no_such'"):
        defense_config(name, {"no_such": 1})
    config = defense_config(name)
    for f in fields(config):
        assert defense_config(name, {f.name: getattr(config, f.name)}) == config
    if name not in UNTRAINED:
        assert defense_config(name, {"steps": 2}).tune.steps == 2


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("supervised", {"head": "other"}),
        ("fine-pruning", {"layers": 0}),
        ("fine-pruning", {"drop": 1.5}),
        ("anp", {"ascents": 0}),
        ("ibau", {"patched": 0.0}),
        ("abl", {"share": 1.0}),
        ("abl", {"start": "other"}),
        ("interpolate", {"beta": 1.5}),
    ],
)
def test_senseless_settings_are_refused(name: str, settings: dict[str, Any], tiny_folders: dict[str, Path]) -> None:
    clip = load(str(tiny_folders["vit"]))
    with pytest.raises(InputError, match=name):
        defense(name).defend(clip, tiny_defender(clip), defense_config(name, settings), Work())


def test_unknown_defenses_are_refused() -> None:
    with pytest.raises(InputError, match="unknown defense"):
        defense("magic")
