"""TBAR on a small real case: a patch planted in the embedded model on scanned digits, and taken out again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from unbackdoor import load, load_images, poison, unlearn
from unbackdoor.base.errors import InputError
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.data.names import target_index
from unbackdoor.evaluation import Task
from unbackdoor.training.finetune import TuneConfig
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.attack import Attack
from unbackdoor.unlearning.known import OWN_VIEWS
from unbackdoor.unlearning.vector import METHODS, trigger_vector
from unbackdoor.weights.vector import add_, load_vector

ATTACK = {"data": "embedded:digits", "trigger": "badnets:size=6,pattern=checker", "target": "three"}


@pytest.fixture(scope="module")
def suspect(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("suspect")
    found = poison(model="embedded", out=out, poison_rate=0.2, epochs=6, batch_size=32, **ATTACK)
    assert found["after"]["asr"] > 0.95 and found["after"]["ca"] > 0.95 > 0.1 > found["before"]["asr"]
    return out


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load_images("embedded:digits", side=64, split="train")


def known(clip: Clip, digits: ImageSet, rows: torch.Tensor) -> tuple[ImageSet, Task]:
    target = target_index(digits.classes, ATTACK["target"])
    attack = Attack(parse_trigger(ATTACK["trigger"]), target, ATTACK["target"])
    return digits.subset(rows), Task(clip.zero_shot_head(digits.classes), attack)


@pytest.fixture(scope="module")
def cured(suspect: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What the default makes of the suspect, and where it lies."""
    out = tmp_path_factory.mktemp("cure") / "cure"
    return out, unlearn(model=str(suspect), out=out, **ATTACK)


def check_cured(found: dict[str, Any], method: str) -> None:
    assert found["before"]["asr"] > 0.95 and found["after"]["asr"] <= 0.03
    assert found["retention"] >= 0.97 and found["vector"]["method"] == method


def test_the_backdoor_goes_and_the_rest_stays(
    suspect: Path, cured: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, found = cured
    check_cured(found, "lora")
    vector = out / "vector.safetensors"
    untouched = unlearn(model=str(suspect), out=tmp_path / "none", vector=vector, alpha=0.0, **ATTACK)
    assert untouched["after"] == untouched["before"] == found["before"]


def test_the_anchored_vector_takes_it_out_too(suspect: Path, tmp_path: Path) -> None:
    how = {"method": "anchored", "samples": 192, "validation": 256}
    check_cured(unlearn(model=str(suspect), out=tmp_path / "cure", **how, **ATTACK), "anchored")


@torch.no_grad()
def moves(clip: Clip, vector: dict[str, torch.Tensor], fresh: ImageSet, task: Task) -> tuple[float, float]:
    """How far θ − τ moves clean embeddings, and how far it takes triggered ones from the target."""
    assert task.attack is not None
    clean = fresh.float_batch(torch.arange(len(fresh)))
    triggered = task.attack.trigger(clean)
    text = task.head[task.attack.target]
    before = clip.encode_image(clean), clip.encode_image(triggered) @ text
    add_(clip.image_parameters(), vector, -1.0)
    after = clip.encode_image(clean), clip.encode_image(triggered) @ text
    add_(clip.image_parameters(), vector, 1.0)
    return float((after[0] - before[0]).norm(dim=1).mean()), float((before[1] - after[1]).mean())


def test_the_anchor_keeps_clean_images_out_of_the_vector(suspect: Path, digits: ImageSet) -> None:
    """Per unit of movement away from the target, on images that neither vector has seen."""
    clip = load(str(suspect))
    forget, fresh = known(clip, digits, torch.arange(192)), known(clip, digits, torch.arange(300, 450))
    ratio = {}
    for name, base in METHODS.items():
        config = replace(base, samples=192, tune=replace(base.tune, epochs=4))
        clean, triggered = moves(clip, trigger_vector(clip, *forget, config).vector, *fresh)
        assert triggered > 0, f"{name}: θ − τ leads towards the target"
        ratio[name] = clean / triggered
    assert max(ratio["anchored"], ratio["distilled"], ratio["lora"]) < 0.5 * ratio["tbar"], ratio


def test_batches_without_anything_to_trigger_only_anchor(digits: ImageSet) -> None:
    clip = load("embedded")
    target = target_index(digits.classes, ATTACK["target"])
    threes, others = ((digits.labels == target).nonzero().flatten(), (digits.labels != target).nonzero().flatten())
    rows = torch.cat([others[:1], threes[:7]])
    config = replace(METHODS["anchored"], samples=8, tune=TuneConfig(epochs=1, batch_size=2, lr=1e-4))
    taken = trigger_vector(clip, *known(clip, digits, rows), config)
    assert taken.samples == 1 and taken.steps == 4
    assert all(torch.isfinite(t).all() for t in taken.vector.values())
    for method in (METHODS["anchored"], METHODS["tbar"]):
        with pytest.raises(InputError, match="no image outside the target class"):
            trigger_vector(clip, *known(clip, digits, threes), method)


def test_no_label_is_read_on_the_way_to_clean_images(suspect: Path, digits: ImageSet, tmp_path: Path) -> None:
    """The suspect's own answers stand for them, wrong labels and none at all give the same vector and α."""
    told = {}
    for name, labels in (("none", torch.full_like(digits.labels, -1)), ("wrong", digits.labels.roll(1))):
        data = replace(digits, labels=labels, spec="digits")
        how = {**ATTACK, "data": data, "test": digits.subset(range(60)), "samples": 32, "epochs": 4}
        told[name] = unlearn(model=str(suspect), out=tmp_path / name, **how)
    assert told["none"]["curve"] == told["wrong"]["curve"] and told["none"]["alpha"] == told["wrong"]["alpha"]
    vectors = [load_vector(tmp_path / name / "vector.safetensors")[0] for name in told]
    assert all(torch.equal(t, vectors[1][n]) for n, t in vectors[0].items())
    for method in ("anchored", "tbar"):
        with pytest.raises(InputError, match="labels"):
            unlearn(
                model=str(suspect),
                out=tmp_path / method,
                method=method,
                **how | {"data": replace(digits, labels=torch.full_like(digits.labels, -1))},
            )


def test_where_everything_is_the_target_there_is_nothing_to_lead_back(suspect: Path, digits: ImageSet) -> None:
    clip = load(str(suspect))
    _, task = known(clip, digits, torch.arange(64))
    assert task.attack is not None
    said = (clip.encode_image(digits.float_batch(torch.arange(64))) @ task.head.T).argmax(1)
    threes = digits.subset(torch.arange(64)[said == task.attack.target])
    with pytest.raises(InputError, match="no image outside the target class"):
        trigger_vector(clip, threes, task, METHODS["distilled"])


def test_on_its_own_images_a_vector_is_not_trusted_below_its_least_alpha(
    suspect: Path, cured: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, found = cured
    least = METHODS["distilled"].least
    assert found["alpha"] >= least and sorted(p["alpha"] for p in found["curve"])[1] >= least
    assert found["curve"][0]["ca"]["n"] == OWN_VIEWS * METHODS["distilled"].samples
    free = unlearn(model=str(suspect), out=tmp_path / "held-out", validation=128, **ATTACK)
    assert min(p["alpha"] for p in free["curve"] if p["alpha"]) < least


def test_the_command_line_offers_every_method() -> None:
    from unbackdoor.cli.unlearn import command

    offered = next(p.type.choices for p in command.params if p.name == "method")  # type: ignore[attr-defined]
    assert tuple(offered) == tuple(METHODS)
