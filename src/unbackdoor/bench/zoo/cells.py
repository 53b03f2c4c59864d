"""A zoo's cells, each a function of its configuration: make a member, examine it, cure it of what was recovered."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

from unbackdoor.base.draws import permutation
from unbackdoor.base.errors import InputError
from unbackdoor.base.manifest import Manifest, write_json
from unbackdoor.bench.material import case_of, images_of, original, task_of
from unbackdoor.bench.recipe import DataEntry, Json
from unbackdoor.bench.store import RESULT, folder_of, read_result
from unbackdoor.bench.suspects import planted
from unbackdoor.bench.zoo.recipe import Zoo, examination, inversion
from unbackdoor.clip.difference import save_difference
from unbackdoor.clip.handle import Clip
from unbackdoor.clip.load import load
from unbackdoor.data.images import ImageSet
from unbackdoor.data.shares import defender_rows
from unbackdoor.evaluation import Task, evaluate_images
from unbackdoor.evaluation.answers import answers
from unbackdoor.scan.examine import split
from unbackdoor.scan.family import LEFT, Reach, left, reach
from unbackdoor.scan.finding import Lead
from unbackdoor.scan.inverters import inverter
from unbackdoor.scan.inverters.base import Subject
from unbackdoor.scan.narrowing import narrowed
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.attack import Attack
from unbackdoor.triggers.mixed import Mixed
from unbackdoor.unlearning.alpha import BLIND, AlphaConfig
from unbackdoor.unlearning.known import Cured, Plan, cure_known
from unbackdoor.unlearning.unknown import CONFIG, Suspect, cure_class, cure_unknown, rule_for
from unbackdoor.unlearning.vector import VectorConfig, as_answered

FILE = "member.safetensors"


def member_cell(out: Path, config: Json, folder: Path, device: str, manifest: Manifest) -> Json:
    """Fine-tune, with or without poison, and store the difference from the base."""
    hashes: list[str] = []

    def store(clip: Clip) -> None:
        hashes.append(save_difference(original(config["model"], device), clip, folder / FILE))

    result = planted(config, folder, device, manifest, store)
    return {**result, "weights": hashes[0], "size": (folder / FILE).stat().st_size}


def collect(out: Path, zoo: Zoo, population: list[Json]) -> list[Json]:
    """What is known of the members that are made: names, the member, its card, and its examination under `seen`."""
    rows = []
    for member in population:
        card = read_result(out, member["config"])
        if card is not None:
            examined = read_result(out, examination(zoo, member)["config"])
            rows.append({**member["names"], "member": member, "card": card, "seen": examined})
    return rows


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


@lru_cache(maxsize=1)
def _subject_of(out: Path, member: str, count: int, seed: int, device: str) -> Subject:
    """A member as inverters see it. Its twin is made once for the examination and the cure that follows it.

    Args:
        member: its configuration, as JSON.
    """
    config = json.loads(member)
    clip, train, _, _ = _open(out, config, device)
    head = case_of(config).head(clip, train)
    # The base, which every member was made from, is known to be clean.
    base = original(config["model"], device)
    return split(clip, scanned_with(train, count, seed), head, train.classes, seed, base)


def examination_cell(out: Path, config: Json, folder: Path, device: str, manifest: Manifest) -> Json:
    """Every inverter on a member; what is known of it plays no part.

    Each is kept by itself, so that an examination goes on where it was killed, and a new version of one inverter leaves
    what the others found.
    """
    kept = {name: read_result(out, inversion(config, name)) for name in config["versions"]}
    if None in kept.values():
        subject = narrowed(_subject_of(out, json.dumps(config["member"]), config["images"], config["seed"], device))
        for name in (name for name, result in kept.items() if result is None):
            kept[name] = result = _invert(subject, name)
            own = inversion(config, name)
            here = folder_of(out, own)
            here.mkdir(parents=True, exist_ok=True)
            write_json(here / "config.json", own)
            write_json(here / RESULT, result)
    return {"inverters": kept}


def _invert(subject: Subject, name: str) -> Json:
    began = time.perf_counter()
    recovered = inverter(name).invert(subject).as_dict(subject.names)
    return {**recovered, "seconds": round(time.perf_counter() - began, 2)}


@dataclass(frozen=True)
class Patient:
    """A member to be cured, and what its cure is measured with.

    Args:
        suspect: what `cure_unknown` takes; its model is changed in place.
        leads: the named class and further ones that stood out.
        test, task: held-out pictures, and the attack that the member really has.
        before: the member's rates.
    """

    suspect: Suspect
    leads: list[Lead]
    test: ImageSet
    task: Task
    before: Json


def patient(out: Path, config: Json, device: str, vector: VectorConfig = CONFIG, rule: AlphaConfig = BLIND) -> Patient:
    """Open the member of a recovery's configuration.

    Args:
        vector, rule: how vectors are taken, and α chosen.

    Raises:
        InputError: the member or its examination is not there.
    """
    scanned = config["leads"][0]["by"]
    clip, train, test, card = _open(out, scanned["member"], device)
    leads = [_lead(out, lead["target"], lead["by"]) for lead in config["leads"]]
    task = task_of(case_of({**scanned["member"], "trigger": card["trigger"]}), clip, train)
    rows = defender_rows(len(train), vector.samples, vector.validation)
    forget, tuning = (as_answered(clip, train.subset(part), task.head) for part in rows)
    own = replace(vector, tune=replace(vector.tune, seed=config["seed"]))
    pictures = scanned_with(train, scanned["images"], scanned["seed"])
    natural = _subject_of(out, json.dumps(scanned["member"]), scanned["images"], scanned["seed"], device)
    suspect = Suspect(
        clip,
        pictures,
        train.classes,
        task.head,
        forget,
        Plan.of(clip, forget, tuning, task.head, own, rule_for(config["backdoored"], rule)),
        config["backdoored"],
        config["seed"],
        natural,
    )
    return Patient(suspect, leads, test, task, card["after"])


def recovery_cell(out: Path, config: Json, folder: Path, device: str, manifest: Manifest) -> Json:
    """Cure a member as `unlearn --scan` does, but for the scans between rounds, and measure the attack it really has.

    `config["backdoored"]` and `config["leads"]` are what the examination came to under a null: the named class and
    further ones that stood out, each with the inversion that shows it; the further ones are cured if their triggers
    still work.
    """
    return recovered(patient(out, config, device))


def recovered(patient: Patient) -> Json:
    """Cure a member in place, and measure."""
    suspect, head, test = patient.suspect, patient.task.head, patient.test
    before_answers, _ = answers(suspect.clip, test, head)

    def cure(number: int, lead: Lead, trigger: Callable[[], Mixed]) -> Json:
        target = suspect.names.index(lead.target)

        def family(before: Reach | None = None) -> Reach:
            subject, natural = suspect.subject(), suspect.natural
            assert natural is not None
            return reach(subject, natural, target, lead.trigger, before)

        def take(number: int, triggers: Mixed) -> tuple[int, Cured]:
            task = Task(head, Attack(triggers, target, lead.target))
            return number, cure_known(suspect.clip, suspect.forget, task, suspect.plan)

        first = trigger()
        # What was found in a model that is called clean is natural.
        before = None if suspect.backdoored is False else family()
        (number, made), after = cure_class(suspect, lead, first, before, take, lambda _: family(before))
        share = 0.0 if before is None or after is None else left(before, after)
        return {
            "shown": lead.inverter,
            "target": lead.target,
            "alpha": made.search.alpha,
            "satisfied": made.search.satisfied,
            "attempts": made.attempts,
            "cures": number,
            "left": round(share, 4),
            "whole": made.search.satisfied and share <= LEFT,
        }

    rounds, _ = cure_unknown(suspect, patient.leads, cure)
    after = evaluate_images(suspect.clip, test, patient.task)
    after_answers, _ = answers(suspect.clip, test, head)
    ca = patient.before["ca"]["value"]
    return {
        "before": patient.before,
        "after": after.as_dict(),
        "retention": after.ca.value / ca if ca else None,
        "agreement": float((after_answers == before_answers).float().mean()),
        **rounds[0],
        "also": rounds[1:],
    }


def _lead(out: Path, target: str, by: Json) -> Lead:
    """A class that the examination named, with the trigger that its inverter recovered."""
    inversion = read_result(out, by)
    if inversion is None:
        raise InputError("the examination is not there; it has to be made first")
    return Lead(target, parse_trigger(inversion["trigger"]), by["inverter"])
