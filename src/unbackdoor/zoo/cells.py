"""A zoo's cells, each a function of its configuration: make a member, examine it, cure it of what was recovered."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch

from unbackdoor.bench.cells import (
    attack_of,
    folder_of,
    head_of,
    images_of,
    original,
    planted,
    read_result,
)
from unbackdoor.bench.recipe import DataEntry, Json
from unbackdoor.clip.difference import save_difference
from unbackdoor.clip.handle import Clip
from unbackdoor.clip.load import load
from unbackdoor.data.images import ImageSet
from unbackdoor.draws import permutation
from unbackdoor.errors import InputError
from unbackdoor.evaluation import Task, evaluate_images
from unbackdoor.evaluation.answers import answers
from unbackdoor.inversion import inverter
from unbackdoor.inversion.base import Subject, works
from unbackdoor.inversion.examine import split
from unbackdoor.inversion.finding import Lead
from unbackdoor.manifest import Manifest, write_json
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.attack import Attack
from unbackdoor.unlearning.alpha import BLIND
from unbackdoor.unlearning.known import Plan, cure_known
from unbackdoor.unlearning.unknown import CONFIG, FORGET, TUNING, rule_for, source
from unbackdoor.zoo.recipe import Zoo, examination, inversion

FILE = "member.safetensors"


def member_cell(out: Path, config: Json, folder: Path, device: str, manifest: Manifest) -> Json:
    """Fine-tune, with or without poison, and store the difference from the base."""
    found: list[str] = []

    def store(clip: Clip) -> None:
        found.append(save_difference(original(config["model"], device), clip, folder / FILE))

    result = planted(config, folder, device, manifest, store)
    return {**result, "weights": found[0], "size": (folder / FILE).stat().st_size}


def collect(out: Path, zoo: Zoo, population: list[Json]) -> list[Json]:
    """What is known of the members that are made: names, the member itself, its card, and what was `seen` of it."""
    found = []
    for member in population:
        card = read_result(out, member["config"])
        if card is not None:
            seen = read_result(out, examination(zoo, member)["config"])
            found.append({**member["names"], "member": member, "card": card, "seen": seen})
    return found


def _open(out: Path, member: Json, device: str) -> tuple[Clip, ImageSet, ImageSet, Json]:
    """A member, its training and test pictures, and its card."""
    card = read_result(out, member)
    if card is None:
        raise InputError("the member is not there; it has to be made first")
    clip = load(str(folder_of(out, member) / FILE), device=device)
    train, test = images_of(DataEntry(**member["data"]), clip.frame)
    return clip, train, test, card


def scanned_with(train: ImageSet, count: int, seed: int) -> ImageSet:
    """The pictures of an examination: a draw from the training split, without their labels."""
    rows = permutation(len(train), seed)[:count]
    drawn = train.subset(rows)
    return replace(drawn, labels=torch.full_like(drawn.labels, -1))


def examination_cell(out: Path, config: Json, folder: Path, device: str, manifest: Manifest) -> Json:
    """Every inverter on a member; what is known of it plays no part.

    Each is kept by itself, so that an examination goes on where it was killed, and a new version of one inverter leaves
    what the others found.
    """
    kept = {name: read_result(out, inversion(config, name)) for name in config["versions"]}
    if None in kept.values():
        clip, train, _, _ = _open(out, config["member"], device)
        head = head_of(clip, DataEntry(**config["member"]["data"]), train)
        images = scanned_with(train, config["images"], config["seed"])
        # The base, which every member was made from, is known to be clean.
        base = original(config["member"]["model"], device)
        subject = split(clip, images, head, train.classes, config["seed"], base)
        for name in (name for name, found in kept.items() if found is None):
            kept[name] = found = _invert(subject, name)
            own = inversion(config, name)
            here = folder_of(out, own)
            here.mkdir(parents=True, exist_ok=True)
            write_json(here / "config.json", own)
            write_json(here / "result.json", found)
    return {"inverters": kept}


def _invert(subject: Subject, name: str) -> Json:
    began = time.perf_counter()
    found = inverter(name).invert(subject).as_dict(subject.names)
    return {**found, "seconds": round(time.perf_counter() - began, 2)}


def recovery_cell(out: Path, config: Json, folder: Path, device: str, manifest: Manifest) -> Json:
    """Cure a member as `unlearn --scan` does, but for the scans between rounds, and measure the attack it really has.

    `config["backdoored"]` and `config["leads"]` are what the examination came to under a null: the named class and
    further ones that stood out, each with the inversion that shows it; the further ones are cured if their triggers
    still work.
    """
    scanned = config["leads"][0]["by"]
    member = scanned["member"]
    clip, train, test, card = _open(out, member, device)
    leads = [(lead["target"], lead["by"]["inverter"], read_result(out, lead["by"])) for lead in config["leads"]]
    if any(seen is None for *_, seen in leads):
        raise InputError("the examination is not there; it has to be made first")
    entry = DataEntry(**member["data"])
    head = head_of(clip, entry, train)
    images = scanned_with(train, scanned["images"], scanned["seed"])
    before_answers, _ = answers(clip, test, head)
    pictures = scanned_with(train, FORGET + TUNING, config["seed"] + 1)
    said, _ = answers(clip, pictures, head)
    pictures = replace(pictures, labels=said)
    forget, tuning = pictures.subset(torch.arange(FORGET)), pictures.subset(torch.arange(FORGET, len(pictures)))
    plan = Plan(CONFIG, tuning, rule_for(config["backdoored"], BLIND))
    told: list[Json] = []
    for name, shown, seen in leads:
        assert seen is not None
        target, trigger = train.classes.index(name), parse_trigger(seen["trigger"])
        subject = split(clip, images, head, train.classes, config["seed"])
        if told and not works(subject, trigger, target):
            continue
        lead = Lead(name, trigger, shown)
        mixed = source(clip, subject, lead, forget, plan, backdoored=config["backdoored"])
        found = cure_known(clip, forget, Task(head, Attack(mixed, target, name)), plan).search
        told.append({"shown": shown, "target": name, "alpha": found.alpha, "satisfied": found.satisfied})
    attack = attack_of({**member, "trigger": card["trigger"]}, train)
    task = Task(head, attack)
    after = evaluate_images(clip, test, task)
    kept, _ = answers(clip, test, head)
    before = card["after"]
    return {
        "before": before,
        "after": after.as_dict(),
        "retention": after.ca.value / before["ca"]["value"] if before["ca"]["value"] else None,
        "agreement": float((kept == before_answers).float().mean()),
        **told[0],
        "also": told[1:],
    }
