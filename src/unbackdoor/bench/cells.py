"""The kinds of cells, each a function of its configuration alone: plant a backdoor, cure one and measure, and a zoo's.

A cell's address is a hash over its whole configuration. A finished cell is read, not run; a killed one continues from
its training checkpoint. Decoded images and opened models stay in memory between the cells of one process.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from unbackdoor.attacks.badclip import crafted
from unbackdoor.attacks.plant import Planted, PoisonConfig, plant, poisoned_set
from unbackdoor.attacks.plant_pairs import PairPoisonConfig, plant_pairs
from unbackdoor.bench import results
from unbackdoor.bench.rebound import trace_rebound
from unbackdoor.bench.recipe import POISONS, DataEntry, Json, Rebound, method_config
from unbackdoor.clip.handle import Clip
from unbackdoor.clip.load import load
from unbackdoor.clip.preprocess import Frame
from unbackdoor.data.classes import check_named
from unbackdoor.data.classnames import templates as find_templates
from unbackdoor.data.images import ImageSet
from unbackdoor.data.names import target_index
from unbackdoor.data.pairs import class_pairs
from unbackdoor.data.shares import shares
from unbackdoor.data.specs import load_images, load_test
from unbackdoor.defenses import defense
from unbackdoor.defenses.base import Defender, configured
from unbackdoor.draws import permutation
from unbackdoor.errors import InputError
from unbackdoor.evaluation import Task, evaluate_kept
from unbackdoor.manifest import Manifest, reset_peak_memory, run_key, write_json
from unbackdoor.registry import Registry
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.attack import Attack
from unbackdoor.work import Work

_RESULT = "result.json"
Cell = Callable[[Path, Json, Path, str, Manifest], Json]  # (out, config, folder, device, manifest) → result
# A zoo's lie in a room of their own.
CELLS: Registry[Cell] = Registry(
    "kind of cell",
    {
        "suspect": ("unbackdoor.bench.cells:suspect_cell", "plant a backdoor"),
        "cure": ("unbackdoor.bench.cells:cure_cell", "repair a suspect"),
        "member": ("unbackdoor.zoo.cells:member_cell", "make a model of a zoo"),
        "examination": ("unbackdoor.zoo.cells:examination_cell", "run the inverters on a member"),
        "recovery": ("unbackdoor.zoo.cells:recovery_cell", "cure a member of what was found"),
    },
)


def address(config: Json) -> str:
    """Sixteen hex digits that stand for a whole configuration."""
    return run_key(config)[:16]


def folder_of(out: Path, config: Json) -> Path:
    """Where a cell's files lie."""
    return out / f"{config['kind']}s" / address(config)


def read_result(out: Path, config: Json) -> Json | None:
    """Result of a finished cell, None when it is not finished.

    Raises:
        InputError: as `results.read`.
    """
    path = folder_of(out, config) / _RESULT
    return results.read(path, config["kind"]) if path.exists() else None


def run_cell(out: Path, config: Json, device: str = "auto") -> Json:
    """Run a cell, or read its result when it is finished.

    Raises:
        InputError: anything in the configuration that cannot be used.
    """
    done = read_result(out, config)
    if done is not None:
        return done
    folder = folder_of(out, config)
    (folder / ".work").mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    manifest = Manifest(config["kind"], config)
    reset_peak_memory()
    found = CELLS.get(config["kind"])(out, config, folder, device, manifest)
    facts = manifest.as_dict()
    manifest.write(folder)
    result = {
        **found,
        "address": address(config),
        "wall_seconds": facts["seconds"],
        "peak_memory_mib": facts["peak_memory_mib"],
    }
    write_json(folder / _RESULT, result)
    shutil.rmtree(folder / ".work", ignore_errors=True)
    return result


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
    entry = DataEntry(**config["data"])
    clip = original(config["model"], device).clone()
    train, test = images_of(entry, clip.frame)
    own = train.subset(shares(len(train), entry.attacker, 0, 0)[0])
    poison = _poison_config(config)
    if config["trigger"] is not None:
        # A patch that is still to be optimised is, against the model that is about to be poisoned.
        ready = crafted(
            clip,
            own,
            parse_trigger(config["trigger"]),
            config["target"],
            seed=poison.tune.seed,
            templates=entry.templates,
            work=Work(folder / ".work"),
        )
        config = {**config, "trigger": ready.spec()}
    attack = attack_of(config, own)
    manifest.hashes["train_data"], manifest.hashes["test_data"] = own.content_hash(), test.content_hash()
    head = head_of(clip, entry, own)
    before = evaluate_kept(clip, test, Task(head, attack), folder / ".work" / "before.json", label=None)
    made = _plant(clip, own, entry, head, attack, poison, Work(folder / ".work", address(config)))
    store(clip)
    task = Task(head_of(clip, entry, own), attack)
    after = evaluate_kept(clip, test, task, folder / ".work" / "after.json", label=None)
    return {
        "trigger": None if attack is None else attack.trigger.spec(),
        "target": config["target"],
        "poisoned": made.poisoned,
        "images": made.trained_on,
        "steps": made.tune.steps,
        "lr": made.tune.lr,
        "seconds": round(made.run.seconds, 2),
        "before": before.as_dict(),
        "after": after.as_dict(),
    }


def _plant(
    clip: Clip,
    own: ImageSet,
    entry: DataEntry,
    head: Tensor,
    attack: Attack | None,
    poison: PoisonConfig | PairPoisonConfig,
    work: Work,
) -> Planted:
    if isinstance(poison, PoisonConfig):
        return plant(clip, own, head, attack, poison, work=work)
    pairs = class_pairs(own, poison.templates, entry.captions)
    return plant_pairs(clip, pairs, attack, poison, work=work)


def cure_cell(out: Path, config: Json, folder: Path, device: str, manifest: Manifest) -> Json:
    """Cure a suspect by one defence and measure what became of it."""
    suspect = config["suspect"]
    story = read_result(out, suspect)
    if story is None:
        raise InputError(f"suspect {address(suspect)} is not there; it has to be planted first")
    entry = DataEntry(**config["data"])
    clip = load(str(folder_of(out, suspect) / "model"), device=device)
    train, test = images_of(entry, clip.frame)
    attacker, clean, choice = (
        train.subset(rows) for rows in shares(len(train), entry.attacker, entry.defender, entry.validation)
    )
    attack = attack_of({**suspect, "trigger": story["trigger"]}, train)
    assert attack is not None
    seed = suspect["poison"]["tune"]["seed"]
    name, method = method_config(config["method"], config["settings"], seed)
    poison = _poison_config(suspect)
    if isinstance(poison, PairPoisonConfig):
        said = class_pairs(clean, poison.templates, entry.captions)
        clean = replace(clean, captions=tuple(said.captions(torch.arange(len(clean)))))
    data = Defender(
        clean,
        choice,
        head_of(clip, entry, train),
        find_templates(entry.templates),
        attack,
        original(suspect["model"], device),
        (lambda: poisoned_set(attacker, attack, poison)[0]) if isinstance(poison, PoisonConfig) else None,
    )
    cure = defense(name).defend(clip, data, method, Work(folder / ".work", address(config)))
    head = cure.head if cure.head is not None else head_of(clip, entry, train)
    after = evaluate_kept(clip, test, Task(head, attack), folder / ".work" / "after.json", label=None)
    before = story["after"]
    result = {
        "before": before,
        "after": after.as_dict(),
        "retention": after.ca.value / before["ca"]["value"] if before["ca"]["value"] else None,
        "images": cure.images,
        "labels": cure.labels,
        "steps": cure.steps,
        "seconds": round(cure.seconds, 2),
        "facts": cure.facts,
    }
    if config["rebound"] is not None:
        rebound = Rebound(**config["rebound"])
        result["rebound"] = trace_rebound(
            clip, clean, test, Task(head, attack), rebound, seed, Work(folder / ".work", address(config))
        )
    return result


def _poison_config(config: Json) -> PoisonConfig | PairPoisonConfig:
    found: PoisonConfig | PairPoisonConfig = configured(
        "poison", POISONS[config["data"].get("regime", "classes")](), config["poison"]
    )
    return found


def attack_of(config: Json, images: ImageSet) -> Attack | None:
    """The attack of a suspect's configuration; None for a clean one."""
    if config["trigger"] is None:
        return None
    index = target_index(images.classes, config["target"])
    return Attack(parse_trigger(config["trigger"]), index, images.classes[index])


def head_of(clip: Clip, entry: DataEntry, images: ImageSet) -> Tensor:
    """Zero-shot head over the data's classes."""
    if not images.classes:
        raise InputError(f"{entry.source} names no classes; name a file of them under classes")
    check_named(entry.source, images.classes)
    return clip.zero_shot_head(images.classes, find_templates(entry.templates))


@lru_cache(maxsize=2)
def original(reference: str, device: str) -> Clip:
    """The model before anyone touched it; callers clone it before they train."""
    return load(reference, device=device)


def images_of(entry: DataEntry, frame: Frame) -> tuple[ImageSet, ImageSet]:
    """Training and test images; those without a label are left out of the former."""
    span = None if entry.class_range is None else (entry.class_range[0], entry.class_range[1])
    return _decoded(entry.source, entry.test, entry.test_limit, entry.classes, span, frame)


@lru_cache(maxsize=1)
def _decoded(
    source: str, test: str | None, limit: int | None, classes: str | None, span: tuple[int, int] | None, frame: Frame
) -> tuple[ImageSet, ImageSet]:
    train = load_images(source, side=frame, split="train", classes=classes)
    if bool((train.labels < 0).any()):
        train = train.subset(train.labels >= 0)
    if span is None:
        return train, load_test(test, source, side=frame, of=train.classes, limit=limit, classes=classes)
    held_out = _only(load_test(test, source, side=frame, of=train.classes, classes=classes), span)
    if limit is not None and limit < len(held_out):
        held_out = held_out.subset(permutation(len(held_out), 0)[:limit])
    return _only(train, span), held_out


def _only(images: ImageSet, span: tuple[int, int]) -> ImageSet:
    """The images of classes span[0] to span[1] − 1, as a data set of those classes."""
    low, high = span
    if not 0 <= low < high <= len(images.classes):
        raise InputError(f"{images.spec}: class_range [{low}, {high}] does not fit its {len(images.classes)} classes")
    kept = images.subset((images.labels >= low) & (images.labels < high))
    return replace(kept, labels=kept.labels - low, classes=images.classes[low:high])
