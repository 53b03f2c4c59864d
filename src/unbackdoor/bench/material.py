"""What a cell works on: the model, the images of a data entry, and the suspect's attack.

Decoded images and opened models stay in memory between the cells of one process.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from unbackdoor.base.draws import permutation
from unbackdoor.base.errors import InputError
from unbackdoor.bench.recipe import DataEntry, Json
from unbackdoor.clip.handle import Clip
from unbackdoor.clip.load import load
from unbackdoor.clip.preprocess import Frame
from unbackdoor.data.images import ImageSet
from unbackdoor.data.specs import load_images, load_test
from unbackdoor.evaluation import Task
from unbackdoor.runs.case import Case


def case_of(config: Json) -> Case:
    """The model and the attack of a suspect's configuration; a clean one has no trigger."""
    templates = DataEntry(**config["data"]).templates
    return Case(config["model"], trigger=config["trigger"], target=config["target"], templates=templates)


def task_of(case: Case, clip: Clip, images: ImageSet) -> Task:
    """The zero-shot head over the images' classes, and the attack where there is one."""
    return Task(case.head(clip, images)) if case.trigger is None else case.attack(clip, images)[1]


@lru_cache(maxsize=2)
def original(reference: str, device: str) -> Clip:
    """The model before anyone touched it; callers clone it before they train."""
    return load(reference, device=device)


def images_of(entry: DataEntry, frame: Frame) -> tuple[ImageSet, ImageSet]:
    """Training and test images; those without a label are left out of the former.

    Raises:
        InputError: they cannot be read, or name no classes.
    """
    span = None if entry.class_range is None else (entry.class_range[0], entry.class_range[1])
    train, test = _decoded(entry.source, entry.test, entry.test_limit, entry.classes, span, frame)
    if not train.classes:
        raise InputError(f"{entry.source} names no classes; name a file of them under classes")
    return train, test


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
