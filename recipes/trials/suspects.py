"""A bench grid's planted suspects, opened as a defender would have them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import unbackdoor
from unbackdoor.bench.cells import attack_of, folder_of, head_of, images_of, read_result
from unbackdoor.bench.grid import narrow, plan
from unbackdoor.bench.recipe import DataEntry, read_recipe
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.data.shares import shares
from unbackdoor.evaluation import Task
from unbackdoor.unlearning.vector import Known
from unbackdoor.weights.files import state_hash

ROOT = Path(__file__).parent.parent.parent
FORGET = 256


@dataclass(frozen=True)
class Suspect:
    """A planted suspect.

    Args:
        names: data, attack and seed.
        story: the suspect's result, as bench left it.
        folder: where the model lies.
        clean: the defender's images.
        known: the first `FORGET` of them, the trigger, the target and the head.
        tuning: images for choosing α.
        test: images for measuring.
    """

    names: dict[str, Any]
    story: dict[str, Any]
    folder: Path
    clip: Clip
    clean: ImageSet
    known: Known
    tuning: ImageSet
    test: ImageSet

    @property
    def task(self) -> Task:
        return Task(self.known.head, self.known.trigger, self.known.target)


def suspects(recipe: str, data_root: Path, runs: Path, only: list[str]) -> Iterator[tuple[dict[str, Any], Any]]:
    """Names of each attacked suspect of `recipes/bench/RECIPE.yaml` that lies in `runs`, and what opens it."""
    grid = read_recipe(ROOT / "recipes" / "bench" / f"{recipe}.yaml", data_root)
    hashes = {"embedded": state_hash(unbackdoor.load("embedded", device="cpu").state())}
    for suspect, cures in narrow(plan(grid, hashes), only):
        story = read_result(runs, suspect["config"])
        if story is not None and cures:
            yield suspect["names"], lambda s=suspect, c=cures, t=story: _open(runs, s, c, t)


def _open(runs: Path, suspect: dict[str, Any], cures: list[dict[str, Any]], story: dict[str, Any]) -> Suspect:
    config, entry = suspect["config"], DataEntry(**cures[0]["config"]["data"])
    folder = folder_of(runs, config) / "model"
    clip = unbackdoor.load(str(folder), device="cpu")
    train, test = images_of(entry, clip.frame)
    _, clean, choice = (
        train.subset(rows) for rows in shares(len(train), entry.attacker, entry.defender, entry.validation)
    )
    attack = attack_of({**config, "trigger": story["trigger"]}, train)
    assert attack is not None
    known = Known(clean.subset(torch.arange(FORGET)), attack.trigger, attack.target, head_of(clip, entry, train))
    return Suspect(suspect["names"], story, folder, clip, clean, known, choice, test)
