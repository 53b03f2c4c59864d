"""The cells of a suspect, `poison` on the attacker's share of the images, and of the yardstick of its triggers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from unbackdoor.attacks.badclip import crafted
from unbackdoor.attacks.plant import Planted, PoisonConfig, plant
from unbackdoor.attacks.plant_pairs import PairPoisonConfig, plant_pairs
from unbackdoor.base.errors import InputError
from unbackdoor.base.manifest import Manifest
from unbackdoor.base.work import Work
from unbackdoor.bench.material import case_of, images_of, original, task_of
from unbackdoor.bench.recipe import POISONS, DataEntry, Json
from unbackdoor.bench.store import address, folder_of, read_result
from unbackdoor.clip.handle import Clip
from unbackdoor.clip.load import load
from unbackdoor.data.images import ImageSet
from unbackdoor.data.pairs import class_pairs
from unbackdoor.data.shares import shares
from unbackdoor.defenses.base import configured
from unbackdoor.evaluation import Task, evaluate_kept
from unbackdoor.metrics.backdoor import BackdoorRates
from unbackdoor.runs.case import Case


def suspect_cell(out: Path, config: Json, folder: Path, device: str, manifest: Manifest) -> Json:
    """Plant a backdoor and save the model."""

    def store(clip: Clip) -> None:
        clip.round_as_stored()
        clip.save(folder / "model")

    return planted(config, folder, device, manifest, store)


def planted(config: Json, folder: Path, device: str, manifest: Manifest, store: Callable[[Clip], None]) -> Json:
    """Fine-tune a model as `config` tells.

    Args:
        store: writes the model, and leaves in it the weights that come back from what was written; these are measured.

    Returns:
        Its rates before and after, and how it was made.
    """
    entry, case, poison = DataEntry(**config["data"]), case_of(config), poison_of(config)
    work = Work(folder / ".work", address(config))
    clip = original(config["model"], device).clone()
    train, test = images_of(entry, clip.frame)
    own = train.subset(shares(len(train), entry.attacker, 0, 0)[0])
    if case.trigger is not None:
        case = _crafted(case, config, clip, own, folder)
    manifest.hashes["train_data"], manifest.hashes["test_data"] = own.content_hash(), test.content_hash()
    task = task_of(case, clip, own)
    before = evaluate_kept(clip, test, task, folder / ".work" / "before.json", label=None)
    done = _plant(clip, own, task, poison, entry.captions, work)
    store(clip)
    # Pairs move the text tower, and the head with it.
    task = replace(task, head=case.head(clip, own))
    after = evaluate_kept(clip, test, task, folder / ".work" / "after.json", label=None)
    return result_of(task, config["target"], done, before, after)


def result_of(task: Task, target: str, done: Planted, before: BackdoorRates, after: BackdoorRates) -> Json:
    """What the cell of a suspect leaves (`results.Suspect`)."""
    return {
        "trigger": None if task.attack is None else task.attack.trigger.spec(),
        "target": target,
        "poisoned": done.poisoned,
        "images": done.trained_on,
        "steps": done.tune.steps,
        "lr": done.tune.lr,
        "seconds": round(done.run.seconds, 2),
        "before": before.as_dict(),
        "after": after.as_dict(),
    }


def yardstick_cell(out: Path, config: Json, folder: Path, device: str, manifest: Manifest) -> Json:
    """Measure a suspect's trigger on the same fine-tuning without poison."""
    clean, suspect = config["clean"], config["suspect"]
    if read_result(out, clean) is None:
        raise InputError(f"suspect {address(clean)} is not there; it has to be trained first")
    entry, case = DataEntry(**suspect["data"]), case_of(suspect)
    clip = load(str(folder_of(out, clean) / "model"), device=device)
    train, test = images_of(entry, clip.frame)
    own = train.subset(shares(len(train), entry.attacker, 0, 0)[0])
    card = read_result(out, suspect)
    if card is not None:
        case = replace(case, trigger=card["trigger"])
    else:
        case = _crafted(case, suspect, original(suspect["model"], device).clone(), own, folder)
    manifest.hashes["test_data"] = test.content_hash()
    task = task_of(case, clip, own)
    assert task.attack is not None
    after = evaluate_kept(clip, test, task, folder / ".work" / "after.json", label=None)
    return {"trigger": task.attack.trigger.spec(), "target": suspect["target"], "after": after.as_dict()}


def _crafted(case: Case, config: Json, clip: Clip, own: ImageSet, folder: Path) -> Case:
    """A patch that is still to be optimised is, against the model that is about to be poisoned."""
    ready = crafted(
        clip,
        own,
        case.opened_trigger(),
        config["target"],
        seed=poison_of(config).tune.seed,
        templates=DataEntry(**config["data"]).templates,
        work=Work(folder / ".work"),
    )
    return replace(case, trigger=ready)


def _plant(
    clip: Clip,
    own: ImageSet,
    task: Task,
    poison: PoisonConfig | PairPoisonConfig,
    captions: str | None,
    work: Work,
) -> Planted:
    if isinstance(poison, PoisonConfig):
        return plant(clip, own, task.head, task.attack, poison, work=work)
    pairs = class_pairs(own, poison.templates, captions)
    return plant_pairs(clip, pairs, task.attack, poison, work=work)


def poison_of(config: Json) -> PoisonConfig | PairPoisonConfig:
    """How a suspect's configuration poisons its data."""
    regime = POISONS[config["data"].get("regime", "classes")]
    poison: PoisonConfig | PairPoisonConfig = configured("poison", regime(), config["poison"])
    return poison
