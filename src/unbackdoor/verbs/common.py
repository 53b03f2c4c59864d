"""What the verbs share: opening models and data, who may use which image, and the run folder."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unbackdoor.clip.handle import Clip
from unbackdoor.clip.load import load, offline
from unbackdoor.data.classes import check_named
from unbackdoor.data.classnames import templates as find_templates
from unbackdoor.data.images import ImageSet
from unbackdoor.data.poisoning import target_index
from unbackdoor.data.specs import load_images, load_pictures, load_test
from unbackdoor.devices import is_first_process
from unbackdoor.errors import InputError, Interrupted, first_line
from unbackdoor.evaluation import Task
from unbackdoor.manifest import Manifest
from unbackdoor.metrics.backdoor import BackdoorRates
from unbackdoor.training.parallel import wait_for_all
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.attack import Attack
from unbackdoor.triggers.base import Trigger
from unbackdoor.untrusted import as_type, is_there, read_json
from unbackdoor.weights.files import state_hash
from unbackdoor.weights.vector import Vector, load_vector


def open_model(
    model: str | Path | torch.nn.Module | Clip, checkpoint: str | Path | None = None, device: str = "auto"
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


def open_data(
    data: str | ImageSet,
    clip: Clip,
    split: str | None,
    *,
    limit: int | None = None,
    seed: int = 0,
    classes: str | None = None,
) -> ImageSet:
    """Images at the model's own resolution."""
    if isinstance(data, ImageSet):
        return data
    return load_images(data, side=clip.frame, split=split, limit=limit, seed=seed, classes=classes)


def open_pictures(
    data: str | ImageSet, clip: Clip, *, limit: int | None = None, seed: int = 0, classes: str | None = None
) -> ImageSet:
    """Images of the training split for what needs no labels; `classes` are then what is asked, not what data has."""
    if isinstance(data, ImageSet):
        return data
    return load_pictures(data, side=clip.frame, limit=limit, seed=seed, classes=classes)


def open_test(
    test: str | ImageSet | None,
    data: str | ImageSet,
    clip: Clip,
    train: ImageSet,
    *,
    limit: int | None = None,
    classes: str | None = None,
) -> ImageSet:
    """The images to measure on, by the classes of `train`; see `load_test`."""
    return load_test(test, data, side=clip.frame, of=train.classes, limit=limit, classes=classes)


def open_trigger(trigger: str | Trigger) -> Trigger:
    """The trigger itself, or the one a spec describes."""
    return trigger if isinstance(trigger, Trigger) else parse_trigger(trigger)


def check_trigger(clip: Clip, trigger: str | Trigger) -> Trigger:
    """`open_trigger`; one that does not fit the model's images says so at once."""
    found = open_trigger(trigger)
    found(torch.zeros(1, 3, clip.image_size, clip.image_size))
    return found


def open_attack(
    clip: Clip, data: ImageSet, trigger: str | Trigger, target: str, templates: str | None = None
) -> tuple[Attack, Task]:
    """Trigger and target resolved against the data's classes, and the task over these with the zero-shot head.

    Raises:
        InputError: the data has no class names, or the target is not among them.
    """
    index = target_index(require_classes(data), target)
    found = check_trigger(clip, trigger)
    attack = Attack(found, index, data.classes[index])
    return attack, Task(open_head(clip, data, templates), attack)


def require_classes(data: ImageSet) -> tuple[str, ...]:
    """The data's class names.

    Raises:
        InputError: there are none, or they are ids that no model knows.
    """
    if not data.classes:
        raise InputError(f"{data.spec} names no classes; give them with --classes FILE")
    check_named(data.spec, data.classes)
    return data.classes


def open_head(clip: Clip, data: ImageSet, templates: str | None) -> Tensor:
    """Zero-shot head (C, D) over the data's classes."""
    return clip.zero_shot_head(require_classes(data), find_templates(templates))


def rates_dict(rates: BackdoorRates) -> dict[str, Any]:
    """`{ca, asr, triggered_accuracy, n: {...}, interval: {...}}`, the form of `before` and `after`."""
    rows = rates.as_dict()
    return {
        **{name: row["value"] for name, row in rows.items()},
        "n": {name: row["n"] for name, row in rows.items()},
        "interval": {name: row["interval"] for name, row in rows.items()},
    }


def retention(before: BackdoorRates, after: BackdoorRates) -> float | None:
    """after.ca / before.ca, None when the model knew nothing before."""
    return after.ca.value / before.ca.value if before.ca.hits else None


def open_vector(path: Path, clip: Clip) -> tuple[Vector, dict[str, str]]:
    """A vector's file, on the model's device and by the model's own names, and its metadata.

    Raises:
        InputError: unreadable, or no vector.
    """
    vector, told = load_vector(path)
    return {name: t.to(clip.device) for name, t in clip.format.names.translated(vector).items()}, told


def weights_hash(clip: Clip) -> str:
    """SHA-256 of the model's weights as they stand."""
    return state_hash(clip.state())


@dataclass(frozen=True)
class _Ran:
    """Of a manifest what tells whose result lies there; older ones name no run."""

    verb: str
    run: str = ""
    started: str = ""


def claim(manifest: Manifest, folder: Path, name: str = "manifest.json", result: Path | None = None) -> None:
    """Refuse to write over another run's result; the same run may be made again.

    Args:
        manifest: of the run that begins, its `run` settled.
        name: of the manifest in `folder` that a finished run leaves.
        result: file that is written, where that is not a whole folder; without its manifest it is another's.

    Raises:
        InputError: there is another run's result, or something that is none of ours.
    """
    path = folder / name
    if not is_there(path):
        if result is not None and is_there(result):
            raise InputError(f"{result}: is there already, and not of a run that is known; give another name")
        return
    what = str(folder if result is None else result)
    try:
        found = as_type(read_json(path), _Ran, str(path))
    except InputError as error:
        raise InputError(f"{what}: holds another program's files ({error}); give another name") from None
    if (found.verb, found.run) != (manifest.verb, manifest.run):
        raise InputError(
            f"{what}: holds the result of another run ({found.verb[:40]}, begun {found.started[:40]}); give another "
            "name, or move it away"
        )


def check_verb(folder: Path, verb: str) -> None:
    """Refuse a folder that holds the result of another verb; runs of this one share it.

    Raises:
        InputError: it does.
    """
    path = folder / "manifest.json"
    if is_there(path):
        try:
            found = as_type(read_json(path), _Ran, str(path))
        except InputError as error:
            raise InputError(f"{folder}: holds another program's files ({error}); give another folder") from None
        if found.verb != verb:
            raise InputError(f"{folder}: holds the result of {found.verb[:40]}; give another folder")


@contextmanager
def resumable() -> Iterator[None]:
    """What is done within goes on from what it kept, which the user is told on an interrupt."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise Interrupted from stop


@contextmanager
def work_folder(out: Path, manifest: Manifest) -> Iterator[Path]:
    """`out/.work` for checkpoints; removed when the run ends well, kept when it is killed or fails.

    Several processes of one run leave it together, once the first has written everything.

    Raises:
        InputError: `out` is a file, cannot be made or written, or holds another run's result.
    """
    work = out / ".work"
    claim(manifest, out)
    try:
        work.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"{out}: cannot be used as an output folder ({reason})") from None
    with resumable():
        yield work
    wait_for_all()
    if is_first_process():
        shutil.rmtree(work, ignore_errors=True)


def check_labels(data: ImageSet, what: str) -> None:
    """Refuse data without labels where they are needed.

    Raises:
        InputError: no image has a label.
    """
    if not bool((data.labels >= 0).any()):
        raise InputError(f"{data.spec} holds no labels, and {what} needs them; use labelled data")


def describe_sequence(values: Sequence[float]) -> dict[str, float]:
    """First, last and smallest loss, for the manifest."""
    return {"first": values[0], "last": values[-1], "smallest": min(values)} if values else {}
