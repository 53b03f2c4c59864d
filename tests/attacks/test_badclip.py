"""Crafting a patch on the embedded model: it draws images to the target, is the same every time, and resumes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from unbackdoor import load
from unbackdoor.attacks.badclip import BadClipConfig, craft_patch, crafted, initial_patch
from unbackdoor.base.errors import InputError
from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.data import load_images
from unbackdoor.data.images import ImageSet
from unbackdoor.evaluation.answers import logits as logits_of
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.badclip import BadClip
from unbackdoor.weights.files import state_hash

TARGET = "three"
SHORT = BadClipConfig(steps=12, batch_size=32, images=64, lr=0.1)
BLANK = BadClip(size=24)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return load("embedded")


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load_images("embedded:digits", side=64, split="train", limit=300)


@pytest.fixture(scope="module")
def made(clip: Clip, digits: ImageSet) -> BadClip:
    return craft_patch(clip, digits, BLANK, TARGET, SHORT)


@torch.no_grad()
def target_probability(clip: Clip, trigger: BadClip) -> float:
    """Mean over held-out digits that are no threes."""
    held_out = load_images("embedded:digits", side=64, split="test", limit=100)
    rows = torch.nonzero(held_out.labels != held_out.classes.index(TARGET)).flatten()
    logits = logits_of(clip, trigger(held_out.float_batch(rows)), clip.zero_shot_head(held_out.classes))
    return float(logits.softmax(dim=1)[:, held_out.classes.index(TARGET)].mean())


def test_it_draws_to_the_target_more_than_random_patches(clip: Clip, made: BadClip) -> None:
    random = max(target_probability(clip, initial_patch(BLANK, seed)) for seed in range(3))
    assert target_probability(clip, made) > max(0.5, 5 * random)


@pytest.mark.parametrize("triplet", [0.0, 500.0])
def test_both_guidances_reach_the_patch(triplet: float, clip: Clip, digits: ImageSet, made: BadClip) -> None:
    other = craft_patch(clip, digits, BLANK, TARGET, BadClipConfig(**{**vars(SHORT), "triplet": triplet, "steps": 2}))
    assert other not in (made, initial_patch(BLANK, SHORT.seed))


def test_the_patch_is_in_the_spec_and_the_model_is_untouched(clip: Clip, digits: ImageSet, made: BadClip) -> None:
    assert parse_trigger(made.spec()) == made
    x = digits.float_batch([0, 1])
    assert torch.equal(made(x)[0, :, 20:44, 20:44], made.patch()) and torch.equal(made(x)[..., 44:], x[..., 44:])
    assert state_hash(clip.state()) == state_hash(load("embedded").state())
    assert all(p.requires_grad for p in clip.model.parameters())


@pytest.fixture
def tiny(vit_folder: Path) -> tuple[Clip, ImageSet]:
    return load(f"local-dir:{vit_folder}"), load_images("embedded:digits", side=32, split="train", limit=100)


def test_same_seed_same_patch(tiny: tuple[Clip, ImageSet]) -> None:
    config = BadClipConfig(**{**vars(SHORT), "steps": 2})
    once, again = (craft_patch(*tiny, BLANK, TARGET, config) for _ in range(2))
    other = craft_patch(*tiny, BLANK, TARGET, BadClipConfig(**{**vars(config), "seed": 1}))
    assert once == again != other


def test_it_resumes_to_the_same_patch(
    tiny: tuple[Clip, ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = BadClipConfig(
        **{**vars(SHORT), "steps": 52, "batch_size": 4, "images": 8}
    )  # a checkpoint is written after 50 steps
    calls, encode = [0], Clip.encode_image

    def killed(self: Clip, images: Tensor, **how: object) -> Tensor:
        calls[0] += 1
        if calls[0] > 53:  # two to embed the images, fifty-one steps
            raise KeyboardInterrupt
        return encode(self, images, **how)  # type: ignore[arg-type]

    place = tmp_path / "craft.checkpoint"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Clip, "encode_image", killed)
        craft_patch(*tiny, BLANK, TARGET, config, work=Work(tmp_path))
    assert place.exists()
    assert craft_patch(*tiny, BLANK, TARGET, config, work=Work(tmp_path)) == craft_patch(*tiny, BLANK, TARGET, config)


def test_only_a_blank_badclip_is_crafted(clip: Clip, digits: ImageSet, made: BadClip) -> None:
    other = parse_trigger("badnets:size=6")
    assert crafted(clip, digits, other, TARGET) is other and crafted(clip, digits, made, TARGET) is made


def test_what_cannot_be_crafted_is_refused(clip: Clip, digits: ImageSet) -> None:
    with pytest.raises(InputError, match="not crafted yet; run `unbackdoor craft`"):
        BadClip()(torch.zeros(1, 3, 64, 64))
    with pytest.raises(InputError, match="does not fit into 64x64"):
        craft_patch(clip, digits, BadClip(size=65), TARGET, SHORT)
    with pytest.raises(InputError, match="target 'cow'"):
        craft_patch(clip, digits, BLANK, "cow", SHORT)
    only = digits.subset(digits.labels == digits.classes.index(TARGET))
    with pytest.raises(InputError, match="images of 'three' and of other classes"):
        craft_patch(clip, only, BLANK, TARGET, SHORT)
    with pytest.raises(InputError, match="must be"):
        BLANK.with_patch(torch.zeros(3, 4, 4))
