"""What the tests of the rival defences share: a tiny random model, and one small planted suspect per session."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.conftest import CONFIGS, write_open_clip
from unbackdoor import load, load_images
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.data.shares import attacker_rows, defender_rows
from unbackdoor.defenses import defence, defence_config
from unbackdoor.defenses.base import Cure, Defender, Work
from unbackdoor.evaluation import Task, evaluate_images
from unbackdoor.training.finetune import TuneConfig
from unbackdoor.training.plant import Attack, PoisonConfig, plant, poisoned_set, settle
from unbackdoor.triggers import parse_trigger

TRIGGER, TARGET = "badnets:size=6,pattern=checker", 3


def tiny_defender(clip: Clip, count: int = 24) -> Defender:
    """A defender who has everything, few images of it."""
    digits = load_images("embedded:digits", side=clip.image_size, split="train")
    clean, rest = digits.subset(torch.arange(count)), digits.subset(torch.arange(count, 3 * count))
    pretrained = clip.clone()
    with torch.no_grad():
        for p in pretrained.model.parameters():
            p.mul_(0.9)
    return Defender(
        clean,
        rest.subset(torch.arange(count)),
        clip.zero_shot_head(digits.classes),
        trigger=parse_trigger("badnets:size=4,pattern=checker"),
        target=TARGET,
        pretrained=pretrained,
        training=rest.subset(torch.arange(count, 2 * count)),
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
        """CA and ASR on test images."""
        found = evaluate_images(clip, self.test, Task(self.data.head if head is None else head, self.data.trigger, 3))
        assert found.asr is not None
        return found.ca.value, found.asr.value

    def cure(self, name: str, **settings: object) -> tuple[Clip, Cure]:
        """A cured copy of the suspect."""
        clip = self.suspect.clone()
        return clip, defence(name)(clip, self.data, defence_config(name, settings), Work())


@pytest.fixture(scope="session")
def case() -> Case:
    """A patch planted in the embedded model on 384 scanned digits, a fifth of them poisoned."""
    train, test = (load_images("embedded:digits", side=64, split=split) for split in ("train", "test"))
    pretrained = load("embedded")
    clip, head = pretrained.clone(), pretrained.zero_shot_head(train.classes)
    attack = Attack(parse_trigger(TRIGGER), TARGET, "three")
    own = train.subset(attacker_rows(len(train))[:384])
    config = settle(PoisonConfig(0.2, tune=TuneConfig(epochs=4, batch_size=32)), clip, len(own))
    plant(clip, own, head, attack, config)
    training, poisoned = poisoned_set(own, attack, config)
    clean, validation = (train.subset(rows) for rows in defender_rows(len(train), 192, 128))
    data = Defender(
        clean, validation, head, trigger=attack.trigger, target=TARGET, pretrained=pretrained, training=training
    )
    found = Case(clip, data, poisoned, test.subset(torch.arange(160)))
    ca, asr = found.rates(clip)
    assert ca > 0.9 and asr > 0.95, (ca, asr)
    return found
