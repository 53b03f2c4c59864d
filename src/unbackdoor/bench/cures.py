"""The cell of a cure: one defense on a suspect, with the defender's share of the images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from unbackdoor.attacks.plant import PoisonConfig, poisoned_set
from unbackdoor.attacks.plant_pairs import PairPoisonConfig
from unbackdoor.base.errors import InputError
from unbackdoor.base.manifest import Manifest
from unbackdoor.base.work import Work
from unbackdoor.bench.material import case_of, images_of, original
from unbackdoor.bench.rebound import trace_rebound
from unbackdoor.bench.recipe import DataEntry, Json, Rebound, method_config
from unbackdoor.bench.store import address, folder_of, read_result
from unbackdoor.bench.suspects import poison_of
from unbackdoor.clip.load import load
from unbackdoor.data.classnames import templates as find_templates
from unbackdoor.data.pairs import class_pairs
from unbackdoor.data.shares import shares
from unbackdoor.defenses import defense
from unbackdoor.defenses.base import Cure, Defender
from unbackdoor.evaluation import Task, evaluate_kept
from unbackdoor.metrics.backdoor import BackdoorRates


def cure_cell(out: Path, config: Json, folder: Path, device: str, manifest: Manifest) -> Json:
    """Cure a suspect by one defense and measure what became of it."""
    suspect = config["suspect"]
    card = read_result(out, suspect)
    if card is None:
        raise InputError(f"suspect {address(suspect)} is not there; it has to be planted first")
    entry = DataEntry(**config["data"])
    clip = load(str(folder_of(out, suspect) / "model"), device=device)
    train, test = images_of(entry, clip.frame)
    attacker, clean, choice = (
        train.subset(rows) for rows in shares(len(train), entry.attacker, entry.defender, entry.validation)
    )
    case = case_of({**suspect, "trigger": card["trigger"]})
    attack, task = case.attack(clip, train)
    seed = suspect["poison"]["tune"]["seed"]
    name, method = method_config(config["method"], config["settings"], seed)
    poison = poison_of(suspect)
    if isinstance(poison, PairPoisonConfig):
        pairs = class_pairs(clean, poison.templates, entry.captions)
        clean = replace(clean, captions=tuple(pairs.captions(torch.arange(len(clean)))))
    data = Defender(
        clean,
        choice,
        task.head,
        find_templates(entry.templates),
        attack,
        original(suspect["model"], device),
        (lambda: poisoned_set(attacker, attack, poison)[0]) if isinstance(poison, PoisonConfig) else None,
    )
    work = Work(folder / ".work", address(config))
    cure = defense(name).defend(clip, data, method, work)
    task = Task(cure.head if cure.head is not None else case.head(clip, train), attack)
    after = evaluate_kept(clip, test, task, folder / ".work" / "after.json", label=None)
    result = result_of(cure, card["after"], after)
    if config["rebound"] is not None:
        result["rebound"] = trace_rebound(clip, clean, test, task, Rebound(**config["rebound"]), seed, work)
    return result


def result_of(cure: Cure, before: Json, after: BackdoorRates) -> Json:
    """What the cell of a cure leaves (`results.Cure`)."""
    return {
        "before": before,
        "after": after.as_dict(),
        "retention": after.ca.value / before["ca"]["value"] if before["ca"]["value"] else None,
        "images": cure.images,
        "labels": cure.labels,
        "steps": cure.steps,
        "seconds": round(cure.seconds, 2),
        "facts": cure.facts,
    }
