"""What a run works on, told once: the model, its data, the attack, and who may use which image."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from unbackdoor.base.errors import InputError
from unbackdoor.clip.handle import Clip
from unbackdoor.clip.load import load, offline
from unbackdoor.data.classes import check_named
from unbackdoor.data.classnames import templates as find_templates
from unbackdoor.data.images import ImageSet
from unbackdoor.data.names import target_index
from unbackdoor.data.specs import load_images, load_pictures, load_test
from unbackdoor.evaluation import Task
from unbackdoor.runs.fields import CaseFields
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.attack import Attack
from unbackdoor.triggers.base import Trigger
from unbackdoor.weights.vector import Vector, load_vector


@dataclass(frozen=True)
class Case(CaseFields):
    """What a run works on.

    Args:
        model: a model reference, a library's model in memory, or a handle.
        data: a source spec, or decoded images, or, for planting, pairs.
        trigger: its spec, `@FILE`, or a trigger.
        target: name of the class that triggered images shall get.
        test: images to measure on; None takes the test split of `data`.
        limit, test_limit: use at most so many images, drawn by `seed`.
        checkpoint: weights, where `model` is an architecture's name.
        classes: a file of class names, or the name of a standard set, in place of the data's own.
        templates: a file of prompt templates, or the name of a standard set.
        device: auto, cpu, cuda, mps, …
        seed: of every draw.
    """

    def clip(self) -> Clip:
        """The model, opened; a handle is used as it is."""
        return open_model(self.model, self.checkpoint, self.device)

    def source(self) -> str | ImageSet:
        """The data, where they are images.

        Raises:
            InputError: they are pairs.
        """
        if isinstance(self.data, str | ImageSet):
            return self.data
        raise InputError(f"{self.data.spec}: are pairs of images and captions; give images")

    def images(self, clip: Clip, split: str | None) -> ImageSet:
        """Images at the model's own resolution."""
        data = self.source()
        if isinstance(data, ImageSet):
            return data
        return load_images(data, side=clip.frame, split=split, limit=self.limit, seed=self.seed, classes=self.classes)

    def pictures(self, clip: Clip, limit: int | None = None) -> ImageSet:
        """Images of the training split for what needs no labels; `classes` are then what is asked for."""
        data = self.source()
        if isinstance(data, ImageSet):
            return data
        return load_pictures(data, side=clip.frame, limit=limit, seed=self.seed, classes=self.classes)

    def held_out(self, clip: Clip, train: ImageSet) -> ImageSet:
        """The images to measure on, by the classes of `train`; see `load_test`."""
        return load_test(
            self.test, self.source(), side=clip.frame, of=train.classes, limit=self.test_limit, classes=self.classes
        )

    def opened_trigger(self) -> Trigger:
        """The trigger.

        Raises:
            InputError: none is named, or it cannot be read.
        """
        if self.trigger is None:
            raise InputError("no trigger is named; give its spec, such as badnets:size=16")
        return open_trigger(self.trigger)

    def fitting_trigger(self, clip: Clip) -> Trigger:
        """The trigger; one that does not fit the model's images says so at once."""
        trigger = self.opened_trigger()
        trigger(torch.zeros(1, 3, clip.image_size, clip.image_size))
        return trigger

    def attack(self, clip: Clip, data: ImageSet, trigger: Trigger | None = None) -> tuple[Attack, Task]:
        """Trigger and target resolved against the data's classes, and the task over these with the zero-shot head.

        Args:
            trigger: in place of the case's own, such as one that was crafted.

        Raises:
            InputError: the data has no class names, the target is not among them, or the trigger does not fit.
        """
        index = target_index(require_classes(data), self.target or "")
        fitting = replace(self, trigger=trigger or self.trigger).fitting_trigger(clip)
        attack = Attack(fitting, index, data.classes[index])
        return attack, Task(self.head(clip, data), attack)

    def head(self, clip: Clip, data: ImageSet) -> Tensor:
        """Zero-shot head (C, D) over the data's classes."""
        return clip.zero_shot_head(require_classes(data), find_templates(self.templates))


def open_model(
    model: str | Path | nn.Module | Clip, checkpoint: str | Path | None = None, device: str = "auto"
) -> Clip:
    """The handle itself, or the model behind a reference; a model of OpenCLIP or transformers in memory is copied."""
    return model if isinstance(model, Clip) else load(model, checkpoint=checkpoint, device=device)


_ARCHITECTURE = re.compile(r"[A-Za-z0-9][\w.+-]{0,99}")


def open_referred(
    reference: str, where: str, remedy: str, device: str = "auto", checkpoint: Path | None = None
) -> Clip:
    """The model behind a reference that stands in a file: one that lies on this machine, never one on the network.

    Args:
        where: what names it, for the error.
        remedy: what the user may do instead.
        checkpoint: weights that the user names; the reference may then be an architecture.

    Raises:
        InputError: it is none that lies here, or it cannot be opened.
    """
    if checkpoint is None or not _ARCHITECTURE.fullmatch(reference):
        offline(reference, where, remedy)
    try:
        return open_model(reference, checkpoint, device)
    except InputError as error:
        raise InputError(f"{where} names a model that cannot be opened: {error}; {remedy}") from None


def open_trigger(trigger: str | Trigger) -> Trigger:
    """The trigger itself, or the one a spec describes."""
    return trigger if isinstance(trigger, Trigger) else parse_trigger(trigger)


def open_vector(path: Path, clip: Clip) -> tuple[Vector, dict[str, str]]:
    """A vector's file, on the model's device and by the model's own names, and its metadata.

    Raises:
        InputError: unreadable, or no vector.
    """
    vector, metadata = load_vector(path)
    return {name: t.to(clip.device) for name, t in clip.format.names.translated(vector).items()}, metadata


def require_classes(data: ImageSet) -> tuple[str, ...]:
    """The data's class names.

    Raises:
        InputError: there are none, or they are ids that no model knows.
    """
    if not data.classes:
        raise InputError(f"{data.spec} names no classes; give them with --classes FILE")
    check_named(data.spec, data.classes)
    return data.classes


def check_labels(data: ImageSet, what: str) -> None:
    """Refuse data without labels where they are needed.

    Raises:
        InputError: no image has a label.
    """
    if not bool((data.labels >= 0).any()):
        raise InputError(f"{data.spec} holds no labels, and {what} needs them; use labelled data")
