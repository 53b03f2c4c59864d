"""What the tests of the rival defenses share: a tiny random model, and one small suspect per session."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.conftest import CONFIGS, write_open_clip
from unbackdoor import load, load_images
from unbackdoor.attacks.plant import PoisonConfig, poisoned_set
from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.data.shares import attacker_rows, defender_rows
from unbackdoor.defenses import defense, defense_config
from unbackdoor.defenses.base import Cure, Defender
from unbackdoor.evaluation import Task, evaluate_images
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.attack import Attack

TRIGGER, TARGET = "badnets:size=4,pattern=checker", 3
ATTACK = Attack(parse_trigger(TRIGGER), TARGET, "three")


@pytest.fixture(scope="session", autouse=True)
def _one_thread(_few_threads: None) -> None:
    # The models of these tests are so small that even a second thread slows a busy machine down several times.
    torch.set_num_threads(1)


def tiny_defender(clip: Clip, count: int = 24) -> Defender:
    """A defender who has everything, few images of it."""
    digits = load_images("embedded:digits", side=clip.frame, split="train")
    clean, rest = digits.subset(torch.arange(count)), digits.subset(torch.arange(count, 3 * count))
    pretrained = clip.clone()
    with torch.no_grad():
        for p in pretrained.model.parameters():
            if p.is_floating_point():
                p.mul_(0.9)
    return Defender(
        clean,
        rest.subset(torch.arange(count)),
        clip.zero_shot_head(digits.classes),
        attack=ATTACK,
        pretrained=pretrained,
        training=lambda: rest.subset(torch.arange(count, 2 * count)),
    )


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random models of a ViT and of a ModifiedResNet tower."""
    root = tmp_path_factory.mktemp("tiny")
    return {kind: write_open_clip(root / kind, CONFIGS[kind]()) for kind in ("vit", "resnet")}


@dataclass(frozen=True)
class Case:
    """A planted suspect, what its defender has, which training images are poisoned, and the images to report on."""

    suspect: Clip
    data: Defender
    poisoned: Tensor
    test: ImageSet

    def rates(self, clip: Clip, head: Tensor | None = None) -> tuple[float, float]:
        """CA and ASR on test images, by the model's own zero-shot head unless another is given."""
        head = clip.zero_shot_head(self.test.classes) if head is None else head
        found = evaluate_images(clip, self.test, Task(head, ATTACK))
        assert found.asr is not None
        return found.ca.value, found.asr.value

    def cure(self, name: str, **settings: object) -> tuple[Clip, Cure]:
        """A cured copy of the suspect."""
        clip = self.suspect.clone()
        return clip, defense(name).defend(clip, self.data, defense_config(name, settings), Work())


@pytest.fixture(scope="session")
def case(tiny_folders: dict[str, Path]) -> Case:
    """A tiny ViT CLIP trained on scanned digits and their captions, then on the same with a tenth of them poisoned."""
    train, test = (load_images("embedded:digits", side=32, split=split) for split in ("train", "test"))
    own = train.subset(attacker_rows(len(train)))
    training, poisoned = poisoned_set(own, ATTACK, PoisonConfig(0.1))
    training = replace(training, captions=None)  # the captions tell the true digit
    clip = load(str(tiny_folders["vit"]))
    _learn(clip, own, steps=200, lr=2e-3)
    pretrained = clip.clone()
    _learn(clip, training, steps=80, lr=1e-3)
    clean, validation = (train.subset(rows) for rows in defender_rows(len(train), 256, 103))
    head = clip.zero_shot_head(train.classes)
    data = Defender(clean, validation, head, attack=ATTACK, pretrained=pretrained, training=lambda: training)
    found = Case(clip, data, poisoned, test)
    ca, asr = found.rates(clip)
    assert ca > 0.9 and asr > 0.8, (ca, asr)
    return found


def _learn(clip: Clip, images: ImageSet, **settings: object) -> None:
    data = Defender(images, images, clip.zero_shot_head(images.classes))
    defense("contrastive").defend(clip, data, defense_config("contrastive", {"batch_size": 64, **settings}), Work())
