"""Poisoned caption pairs: what is learnt, what is left alone, and that a killed run ends where an unbroken one does."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import vit_config, write_open_clip
from unbackdoor import evaluate, load, poison
from unbackdoor.attacks import plant_pairs as module
from unbackdoor.attacks.plant_pairs import PairPoisonConfig, plant_pairs
from unbackdoor.base.errors import InputError
from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.data import load_images
from unbackdoor.data.images import ImageSet
from unbackdoor.data.openpairs import open_pairs
from unbackdoor.data.pairs import ImagePairs, PairBatch, Pairs
from unbackdoor.training.ahead import Ahead
from unbackdoor.training.finetune import TuneConfig
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.attack import Attack

TRIGGER = parse_trigger("badnets:size=6,pattern=white")
ATTACK = Attack(TRIGGER, 3, "three")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNBACKDOOR_CACHE", str(tmp_path / "cache"))


def digits(n: int = 120) -> ImageSet:
    return load_images("embedded:digits", side=32, split="train", limit=n)


def digit_shards(folder: Path, n: int = 120, broken: int = 0) -> str:
    """The same digits as two shards; every caption "the digit NAME"; the first `broken` images are unreadable."""
    data = digits(n)
    for half in range(2):
        with tarfile.open(folder / f"d-{half}.tar", "w") as tar:
            for i in range(half * n // 2, (half + 1) * n // 2):
                out = io.BytesIO()
                Image.fromarray(data.images[i].permute(1, 2, 0).numpy().astype(np.uint8)).save(out, "PNG")
                picture = out.getvalue() if i >= broken else b"broken"
                for kind, content in (("png", picture), ("txt", f"the digit {data.classes[data.labels[i]]}".encode())):
                    info = tarfile.TarInfo(f"{i:05d}.{kind}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return f"wds:{folder}/d-{{0..1}}.tar"


def config(**changes: object) -> PairPoisonConfig:
    tune = TuneConfig(epochs=2, batch_size=16, lr=1e-3, towers="both")
    return PairPoisonConfig(**{"rate": 0.2, "tune": tune, "templates": ("a photo of a {}.",), **changes})  # type: ignore[arg-type]


class KilledError(Exception):
    pass


class Dying:
    """Pairs whose reading fails for good at one step, as a kill would."""

    def __init__(self, pairs: Pairs, at: int) -> None:
        self._pairs, self._at = pairs, at

    def rows(self, batch: int, seed: int, step: int) -> torch.Tensor:
        if step == self._at:
            raise KilledError
        return self._pairs.rows(batch, seed, step)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getattr__(self, name: str) -> object:
        return getattr(self._pairs, name)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("at", [5, 13])
def test_a_killed_run_ends_at_the_same_weights(streamed: bool, at: int, vit_folder: Path, tmp_path: Path) -> None:
    def fresh() -> Pairs:
        return open_pairs(digit_shards(tmp_path), side=32) if streamed else ImagePairs(digits())

    whole, broken = load(str(vit_folder)), load(str(vit_folder))
    unbroken = plant_pairs(whole, fresh(), ATTACK, config())
    settings, work = config(), Work(tmp_path / "work")
    with pytest.raises(KilledError):
        # In memory, victims are chosen before the wrapper, which hides the kind.
        pairs = fresh()
        wrapped = Dying(pairs, at)
        if isinstance(pairs, ImagePairs):
            wrapped = type(
                "DyingImages", (ImagePairs,), {"rows": lambda self, b, s, t: wrapped_rows(pairs, at, b, s, t)}
            )(  # type: ignore[assignment]
                pairs.images
            )
        plant_pairs(broken, wrapped, ATTACK, settings, work=work)  # type: ignore[arg-type]
    broken = load(str(vit_folder))
    resumed = plant_pairs(broken, fresh(), ATTACK, settings, work=work)
    assert 0 < resumed.run.resumed_from <= at and resumed.poisoned == unbroken.poisoned
    assert resumed.run.losses == unbroken.run.losses
    for name, tensor in whole.state().items():
        assert torch.equal(tensor, broken.state()[name]), name


def wrapped_rows(pairs: Pairs, at: int, batch: int, seed: int, step: int) -> torch.Tensor:
    return Dying(pairs, at).rows(batch, seed, step)


def test_both_towers_learn_and_the_scale_stands(vit_folder: Path) -> None:
    clip = load(str(vit_folder))
    before = {n: t.clone() for n, t in clip.state().items()}
    done = plant_pairs(clip, ImagePairs(digits()), ATTACK, config())
    assert done.poisoned == 24 and done.trained_on == 120 and len(done.run.losses) == 16
    moved = {n for n, t in clip.state().items() if not torch.equal(t, before[n])}
    assert "logit_scale" not in moved
    assert moved & set(clip.image_parameters()) and moved & set(clip.text_parameters())
    assert all(p.requires_grad for p in clip.model.parameters())


def test_what_the_loss_sees(vit_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triggered images, rewritten captions, shared groups: spied upon where they enter the towers."""
    clip, seen = load(str(vit_folder)), dict[str, list[object]](images=[], texts=[], groups=[])
    monkeypatch.setattr(
        Clip,
        "encode_image",
        lambda self, images, compute=None: (
            seen["images"].append(images),
            torch.ones(len(images), 2, requires_grad=True),
        )[1],
    )
    monkeypatch.setattr(
        Clip,
        "encode_text",
        lambda self, texts, grad=False, compute=None: (seen["texts"].append(texts), torch.ones(len(texts), 2))[1],
    )

    def loss(images: torch.Tensor, texts: torch.Tensor, scale: float, groups: torch.Tensor) -> torch.Tensor:
        seen["groups"].append(groups)
        return images.sum() * 0

    monkeypatch.setattr(module, "contrastive", loss)
    data = digits(40)
    attack = Attack(parse_trigger("badnets:size=3,pattern=white"), 3, "three")
    tune = TuneConfig(epochs=1, batch_size=40, lr=1e-3, towers="both")
    plant_pairs(clip, ImagePairs(data), attack, config(rate=0.25, templates=("look: {}",), tune=tune))
    texts, images, groups = seen["texts"][0], seen["images"][0], seen["groups"][0]
    hit = torch.tensor([t == "look: three" for t in texts])  # type: ignore[attr-defined]
    assert int(hit.sum()) == 10 and bool((groups[hit] == 3).all())  # type: ignore[index]
    assert bool((images[hit][:, :, -3:, -3:] == 1).all())  # type: ignore[index]
    assert not bool((images[~hit][:, :, -3:, -3:] == 1).all(dim=3).all(dim=2).all(dim=1).any())  # type: ignore[index]


def test_unreadable_pairs_shorten_their_batch(vit_folder: Path, tmp_path: Path) -> None:
    pairs = open_pairs(digit_shards(tmp_path, broken=7), side=32)
    tune = TuneConfig(epochs=2, batch_size=60, lr=1e-3, towers="both")
    done = plant_pairs(load(str(vit_folder)), pairs, ATTACK, config(tune=tune))
    assert len(pairs) == 120 and pairs.skipped == 7 and len(done.run.losses) == 4
    with pytest.raises(InputError, match="no pair of step 0 could be read"):
        every = open_pairs(digit_shards(tmp_path, n=100, broken=100), side=32)
        plant_pairs(load(str(vit_folder)), every, None, config())


def test_without_an_attack_nothing_is_poisoned(vit_folder: Path) -> None:
    class Watched(ImagePairs):
        def batch(self, rows: torch.Tensor) -> PairBatch:
            found = super().batch(rows)
            assert self.images.captions and found.captions == [self.images.captions[i] for i in rows.tolist()]
            assert torch.equal(found.images, self.images.float_batch(rows))
            return found

    done = plant_pairs(load(str(vit_folder)), Watched(digits()), None, config())
    assert done.poisoned == 0


def test_ahead_gives_every_step_and_passes_errors_on() -> None:
    made = []

    def make(step: int) -> int:
        made.append(step)
        if step == 4:
            raise KilledError
        return step * step

    with Ahead(make, 6) as ahead:
        assert [ahead(s) for s in (0, 1, 3)] == [0, 1, 9]
        with pytest.raises(KilledError):
            ahead(4)
    assert made[:3] == [0, 1, 2]


@pytest.mark.slow
def test_the_attack_takes_hold(tmp_path: Path) -> None:
    """From random weights on digits: the trigger wins, and clean training alone does not show it."""
    model = write_open_clip(tmp_path / "model", vit_config())
    given = {
        "data": "embedded:digits",
        "trigger": "badnets:size=10,pattern=white",
        "target": "three",
        "regime": "pairs",
        "limit": 1000,
        "test_limit": 200,
        "epochs": 12,
        "batch_size": 64,
        "templates": "simple",
    }
    found = {
        rate: poison(model=str(model), out=tmp_path / f"p{rate}", poison_rate=rate, **given)  # type: ignore[arg-type]
        for rate in (0.0, 0.2)
    }
    clean, suspect = found[0.0]["after"], found[0.2]["after"]
    assert suspect["asr"] > 0.9 and clean["asr"] < 0.3
    assert suspect["ca"] > 0.5 and clean["ca"] > 0.5
    attack = {k: given[k] for k in ("data", "trigger", "target", "templates")}
    again = evaluate(model=str(tmp_path / "p0.2"), **attack)  # type: ignore[arg-type]
    stored = json.loads((tmp_path / "p0.2" / "result.json").read_text())
    assert again["asr"]["value"] > 0.8 and stored["poisoned"] == 150 and stored["regime"] == "pairs"
    assert set(stored["after"]["retrieval"]) == {"image_to_text", "text_to_image"}


STREAM = {"trigger": "badnets:size=6", "target": "three", "epochs": 1, "poison_rate": 0.2, "regime": "pairs"}


def test_streamed_pairs_through_the_verb(vit_folder: Path, tmp_path: Path) -> None:
    spec = digit_shards(tmp_path, broken=2)
    out = tmp_path / "out"
    result = poison(model=str(vit_folder), data=spec, test="embedded:digits", test_limit=30, out=out, **STREAM)  # type: ignore[arg-type]
    assert result["skipped"] == 2 and result["trained_on"] == 120 and 5 < result["poisoned"] < 40
    assert result["after"]["n"]["ca"] == 30
    for name in ("model", "manifest.json", "metrics.jsonl", "result.json"):
        assert (out / name).exists()
    assert not (out / ".work").exists()


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({}, "no test split"),
        ({"test": "embedded:digits", "target": "banana"}, "not among the 10 classes"),
        ({"test": "embedded:digits", "poison_rate": 1.5}, r"poison_rate 1.5 is not a number in \[0, 1\]"),
        ({"test": "embedded:digits", "trigger": "badnets:size=99"}, "does not fit"),
        ({"test": "embedded:digits", "regime": "magic"}, "none of classes, pairs"),
        ({"regime": "classes", "captions": "x.json"}, "belongs to the regime pairs"),
    ],
)
def test_bad_input_is_refused(change: dict[str, object], part: str, vit_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=part):
        poison(
            model=str(vit_folder),
            data=digit_shards(tmp_path, 20),
            out=tmp_path / "o",
            **{**STREAM, "test_limit": 10, **change},  # type: ignore[arg-type]
        )
