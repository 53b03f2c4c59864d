"""Cells of the image–text regime whose pairs are streamed: an engine for a bench's walk.

A bench's regime `pairs` reads labelled images and makes captions of their classes. Here pairs have captions of their
own and no labels: suspects are planted as `poison --regime pairs` plants them, and the defender's clean pairs are such
that the attacker's share leaves alone. Labelled images, of the test set, measure, choose α, and craft BadCLIP's patch.
Cells and their results have the bench's own form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from unbackdoor.attacks.badclip import crafted
from unbackdoor.attacks.plant_pairs import PairPoisonConfig, plant_pairs
from unbackdoor.base.draws import permutation
from unbackdoor.base.errors import InputError
from unbackdoor.base.manifest import Manifest
from unbackdoor.base.progress import Progress
from unbackdoor.base.work import Work
from unbackdoor.bench import cells, cures, suspects
from unbackdoor.bench.cells import Cell
from unbackdoor.bench.engine import Outcome
from unbackdoor.bench.material import original
from unbackdoor.bench.recipe import DataEntry, Json, method_config
from unbackdoor.bench.store import address, folder_of, read_result
from unbackdoor.bench.suspects import poison_of
from unbackdoor.clip.handle import Clip
from unbackdoor.clip.load import load
from unbackdoor.clip.preprocess import Frame
from unbackdoor.data.classnames import templates
from unbackdoor.data.images import ImageSet
from unbackdoor.data.names import target_index
from unbackdoor.data.openpairs import open_pairs
from unbackdoor.data.specs import load_images, load_test
from unbackdoor.data.stream import PairStream
from unbackdoor.defenses import defense
from unbackdoor.defenses.base import Defender
from unbackdoor.evaluation import Task, evaluate_kept
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.attack import Attack
from unbackdoor.triggers.base import Trigger

LABELED = 20_000  # labelled images, 3 GB of them; 20 or so show the target, of which BadCLIP's patch wants some


@dataclass(frozen=True, eq=False)
class Done:
    """A cell that has been run; its own key, as results cannot be one."""

    outcome: Outcome


class InProcess:
    """An engine that runs one cell at a time, in this process: decoded images are kept from one to the next.

    Args:
        run: (out, configuration, device) → result.
    """

    slots = 1

    def __init__(self, out: Path, device: str, run: Callable[[Path, Json, str], Json]) -> None:
        self._out, self._device, self._run = out, device, run

    def submit(self, config: Json) -> Done:
        """Run a cell; every failure is a sentence, as one bad cell must not end the walk."""
        try:
            return Done((self._run(self._out, config, self._device), None))
        except InputError as error:
            return Done((None, str(error)))
        except Exception as error:
            return Done((None, f"internal error: {type(error).__name__}: {error}"))

    def next_done(self, handles: list[Done]) -> tuple[Done, Outcome]:
        """The one that has been run."""
        return handles[0], handles[0].outcome

    def close(self) -> None:
        """Nothing is held."""


def run_cell(out: Path, config: Json, device: str) -> Json:
    """Run a cell, or go on with a killed one, and store its result.

    Raises:
        InputError: anything in the configuration that cannot be used.
    """
    return cells.run_cell(out, config, device, KINDS[config["kind"]])


def _suspect(out: Path, config: Json, folder: Path, device: str, _: Manifest) -> Json:
    """Plant a backdoor in the stream of pairs and save the model."""
    entry, poison, work = DataEntry(**config["data"]), poison_of(config), Work(folder / ".work", address(config))
    assert isinstance(poison, PairPoisonConfig)
    clip = original(config["model"], device).clone()
    trigger, test = _ready_trigger(clip, entry, config, poison.tune.seed, Work(folder / ".work")), measured(entry, clip)
    task = _task(clip, test, entry, trigger, config["target"])
    before = evaluate_kept(clip, test, task, folder / ".work" / "before.json", label=None)
    pairs = _stream(entry, clip.frame, entry.attacker)
    done = plant_pairs(clip, pairs, task.attack, poison, work=work)
    clip.round_as_stored()
    clip.save(folder / "model")
    # The text tower has moved, and the head with it.
    task = _task(clip, test, entry, trigger, config["target"])
    after = evaluate_kept(clip, test, task, folder / ".work" / "after.json", label=None)
    return suspects.result_of(task, config["target"], done, before, after)


def _yardstick(out: Path, config: Json, folder: Path, device: str, _: Manifest) -> Json:
    """Measure a suspect's trigger on the same fine-tuning without poison."""
    clean, suspect = config["clean"], config["suspect"]
    entry = DataEntry(**suspect["data"])
    if read_result(out, clean) is None:
        raise InputError(f"suspect {address(clean)} is not there; it has to be trained first")
    clip, card = load(str(folder_of(out, clean) / "model"), device=device), read_result(out, suspect)
    if card is not None:
        trigger: Trigger | None = parse_trigger(card["trigger"])
    else:
        start, seed = original(suspect["model"], device).clone(), poison_of(suspect).tune.seed
        trigger = _ready_trigger(start, entry, suspect, seed, Work(folder / ".work"))
    assert trigger is not None
    test = measured(entry, clip)
    task = _task(clip, test, entry, trigger, suspect["target"])
    after = evaluate_kept(clip, test, task, folder / ".work" / "after.json", label=None)
    return {"trigger": trigger.spec(), "target": suspect["target"], "after": after.as_dict()}


def _cure(out: Path, config: Json, folder: Path, device: str, manifest: Manifest) -> Json:
    """Cure a suspect by one defense and measure what became of it."""
    suspect, entry = config["suspect"], DataEntry(**config["data"])
    card = read_result(out, suspect)
    if card is None:
        raise InputError(f"suspect {address(suspect)} is not there; it has to be planted first")
    clip = load(str(folder_of(out, suspect) / "model"), device=device)
    test, trigger = measured(entry, clip), parse_trigger(card["trigger"])
    task = _task(clip, test, entry, trigger, card["target"])
    clean = replace(clean_pairs(entry, clip), classes=test.classes)
    _, choice = labeled(entry, clip)
    prompts, origin = templates(entry.templates), original(suspect["model"], device)
    data = Defender(clean, choice, task.head, prompts, task.attack, origin)
    name, method = method_config(config["method"], config["settings"], suspect["poison"]["tune"]["seed"])
    cure = defense(name).defend(clip, data, method, Work(folder / ".work", address(config)))
    head = cure.head if cure.head is not None else clip.zero_shot_head(test.classes, prompts)
    after = evaluate_kept(clip, test, replace(task, head=head), folder / ".work" / "after.json", label=None)
    return cures.result_of(cure, card["after"], after)


KINDS: dict[str, Cell] = {
    "suspect": _suspect,
    "yardstick": _yardstick,
    "cure": _cure,
}


def _ready_trigger(clip: Clip, entry: DataEntry, config: Json, seed: int, work: Work) -> Trigger | None:
    """The suspect's trigger; a patch that is still to be optimised is, against the model before it is poisoned."""
    if config["trigger"] is None:
        return None
    trigger = parse_trigger(config["trigger"])
    if not config["trigger"].startswith("badclip"):
        return trigger
    images, _ = labeled(entry, clip)
    return crafted(clip, images, trigger, config["target"], seed=seed, templates=entry.templates, work=work)


def _task(clip: Clip, test: ImageSet, entry: DataEntry, trigger: Trigger | None, target: str) -> Task:
    head: Tensor = clip.zero_shot_head(test.classes, templates(entry.templates))
    if trigger is None:
        return Task(head)
    index = target_index(test.classes, target)
    return Task(head, Attack(trigger, index, test.classes[index]))


def measured(entry: DataEntry, clip: Clip) -> ImageSet:
    """The labelled images that models are measured on."""
    return _measured(_test_of(entry), entry.test_limit, entry.classes, clip.frame)


def labeled(entry: DataEntry, clip: Clip) -> tuple[ImageSet, ImageSet]:
    """Labelled training images of the test set's source: most to craft a patch on, a quarter to choose α."""
    images = _labeled(_test_of(entry), entry.classes, clip.frame)
    order, cut = permutation(len(images), 1), len(images) * 3 // 4
    return images.subset(order[:cut]), images.subset(order[cut:][: entry.validation])


def clean_pairs(entry: DataEntry, clip: Clip) -> ImageSet:
    """The defender's pairs, decoded: such as the attacker's share leaves alone.

    Raises:
        InputError: there are fewer.
    """
    return _clean_pairs(entry.source, entry.attacker, entry.defender, clip.frame)


def _test_of(entry: DataEntry) -> str:
    if entry.test is None:
        raise InputError(f"{entry.source}: pairs have no test split; name labelled images under test")
    return entry.test


@lru_cache(maxsize=1)
def _measured(test: str, limit: int | None, classes: str | None, frame: Frame) -> ImageSet:
    images = load_test(test, "", side=frame, of=(), limit=limit, classes=classes)
    if not images.classes:
        raise InputError(f"{test} names no classes; name a file of them under classes")
    return images


@lru_cache(maxsize=1)
def _labeled(source: str, classes: str | None, frame: Frame) -> ImageSet:
    return load_images(source, side=frame, split="train", limit=LABELED, classes=classes)


def _stream(entry: DataEntry, frame: Frame, limit: int | None) -> PairStream:
    pairs = open_pairs(entry.source, side=frame, limit=limit)
    if not isinstance(pairs, PairStream):
        raise InputError(f"{entry.source}: are no pairs that can be streamed; give shards, a table or Parquet files")
    if limit is not None and len(pairs) < limit:
        raise InputError(f"{entry.source}: {limit} pairs are the attacker's, but there are {len(pairs)}; lower it")
    return pairs


@lru_cache(maxsize=1)
def _clean_pairs(source: str, attacker: int, defender: int, frame: Frame) -> ImageSet:
    entry = DataEntry(source, attacker)
    everything = _stream(entry, frame, None)
    rows = torch.cat(list(everything.chunks()))
    rest = rows[~torch.isin(rows, torch.cat(list(_stream(entry, frame, attacker).chunks())))]
    if len(rest) < defender:
        raise InputError(
            f"{source}: the attacker's {attacker} pairs leave {len(rest)}, and the defender asks for {defender}; "
            "lower one, or give more shards"
        )
    # Read in the order in which they lie, so that every part is opened once; kept in another, as whoever takes the
    # first few shall have them from everywhere.
    chosen = rest[permutation(len(rest), 0)[:defender]].sort().values
    places = permutation(defender, 1)
    images = torch.empty(defender, 3, frame.side, frame.side, dtype=torch.uint8)
    captions = [""] * defender
    with Progress("decoding clean pairs", defender) as bar:
        for at in torch.arange(defender).split(512):
            batch = everything.batch(chosen[at])
            own = places[at[torch.isin(chosen[at], batch.keys)]]
            images[own] = (batch.images * 255).round().to(torch.uint8)
            for place, caption in zip(own.tolist(), batch.captions, strict=True):
                captions[place] = caption
            bar.step(int(at[-1]) + 1)
    pairs = ImageSet(images, torch.full((defender,), -1), (), tuple(captions), everything.skipped, source)
    readable = torch.tensor([bool(caption) for caption in captions])
    return pairs if bool(readable.all()) else pairs.subset(readable)
