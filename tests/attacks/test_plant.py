"""What the attacker of the single-task regime hands out."""

from __future__ import annotations

import pytest
import torch

from unbackdoor.attacks.plant import PoisonConfig, poisoned_rows, poisoned_set
from unbackdoor.data.images import ImageSet
from unbackdoor.data.pairs import ImagePairs
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.attack import Attack

ATTACK = Attack(parse_trigger("badnets:size=2,pattern=white"), 1, "dog")


def images() -> ImageSet:
    labels = torch.arange(20) % 4
    names = ("cat", "dog", "fox", "owl")
    return ImageSet(
        torch.zeros(20, 3, 8, 8, dtype=torch.uint8), labels, names, tuple(f"my {names[i]}" for i in labels.tolist())
    )


@pytest.mark.parametrize("clean_label", [False, True])
def test_poison_is_triggered_relabelled_and_says_no_truth(clean_label: bool) -> None:
    train, config = images(), PoisonConfig(0.2, clean_label=clean_label)
    found, mask = poisoned_set(train, ATTACK, config)
    assert int(mask.sum()) == 4 and torch.equal(mask, poisoned_rows(train.labels, ATTACK, config))
    assert bool((found.images[mask, :, -2:, -2:] == 255).all()) and not bool(found.images[~mask].any())
    assert bool((found.labels[mask] == 1).all()) and torch.equal(found.labels[~mask], train.labels[~mask])
    assert bool((train.labels[mask] == 1).all()) == clean_label
    said = ImagePairs(found).captions(mask.nonzero().flatten())
    assert said == (["my dog"] * 4 if clean_label else ["a photo of a dog."] * 4)
    assert train.captions == images().captions, "the attacker's own set stays as it was"


def test_without_an_attack_nothing_is_poisoned() -> None:
    assert not bool(poisoned_rows(images().labels, None, PoisonConfig(0.5)).any())
