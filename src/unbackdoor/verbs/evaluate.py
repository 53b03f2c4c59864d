"""`evaluate`: clean accuracy, and with a trigger also ASR and triggered accuracy, in one pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unbackdoor.answers import Answers
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.data.poisoning import target_index
from unbackdoor.errors import InputError
from unbackdoor.evaluation import Task, evaluate_images, evaluate_retrieval
from unbackdoor.manifest import Manifest
from unbackdoor.metrics.backdoor import COUNTINGS
from unbackdoor.triggers.attack import Attack
from unbackdoor.triggers.base import Trigger
from unbackdoor.verbs.common import (
    check_labels,
    open_data,
    open_head,
    open_model,
    open_trigger,
    require_classes,
    weights_hash,
)

PRECISIONS = ("auto", "float32")


def evaluate(
    *,
    model: str | Clip,
    data: str | ImageSet,
    trigger: str | Trigger | None = None,
    target: str | None = None,
    counting: str = "standard",
    precision: str = "auto",
    retrieval: bool = False,
    limit: int | None = None,
    checkpoint: Path | None = None,
    classes: str | None = None,
    templates: str | None = None,
    device: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """Zero-shot rates of `model` on the test split of `data` (the whole of it where it has no splits).

    Args:
        trigger, target: both or neither.
        counting: `standard`, or `cleanclip` / `par` to count ASR as those papers' code does.
        precision: `auto` answers in bfloat16 where the device is faster in it, and in float32 wherever that could have
            changed an answer (`unbackdoor.answers.Answers`); `float32` answers in float32 alone.
        retrieval: also find captions by image and images by caption; class names and labels are not needed then.
        limit: use at most so many images, drawn with `seed`.

    Returns:
        `ca`, with a trigger `asr` and `triggered_accuracy`, with `retrieval` R@1/5/10 both ways under that name, each
        with value, n and 95% Wilson interval, next to what was measured (model, data, trigger, target, hashes, skipped
        images, seconds) and `precision`, how it was answered.

    Raises:
        InputError: anything unusable in the above.
    """
    if (trigger is None) != (target is None):
        raise InputError("a trigger needs a target and a target a trigger; give both or neither")
    if counting not in COUNTINGS:
        raise InputError(f"counting {counting!r} is none of {', '.join(COUNTINGS)}")
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
    clip = open_model(model, checkpoint, device)
    images = open_data(data, clip, None, limit=limit, seed=seed, classes=classes)
    if retrieval and not any(images.captions or ()):
        raise InputError(f"{images.spec} holds no captions, and retrieval needs them; use captioned data")
    named = bool(images.classes) and bool((images.labels >= 0).any())
    if named or not retrieval or trigger is not None:
        check_labels(images, "evaluation")
        require_classes(images)
    chosen = None if trigger is None else open_trigger(trigger)
    attack = None
    if chosen is not None and target is not None:
        index = target_index(require_classes(images), target)
        attack = Attack(chosen, index, images.classes[index])
    manifest = Manifest("evaluate", {})
    rates: dict[str, Any] = {}
    if named:
        task = Task(open_head(clip, images, templates), attack, counting)
        views = len(images) * (1 if chosen is None else 2)
        answers = Answers.of(clip, task.head, views) if precision == "auto" else Answers(clip, task.head, None)
        rates.update(evaluate_images(clip, images, task, answers=answers, label="evaluating").as_dict())
        rates["precision"] = answers.facts()
    if retrieval:
        ways = evaluate_retrieval(clip, images, label="retrieving")
        rates["retrieval"] = {way: {f"r@{k}": r.as_dict() for k, r in found.items()} for way, found in ways.items()}
    return {
        "verb": "evaluate",
        "model": clip.reference,
        "data": images.spec,
        "trigger": None if chosen is None else chosen.spec(),
        "target": None if attack is None else attack.name,
        "counting": counting,
        **rates,
        "skipped": images.skipped,
        "hashes": {"weights": weights_hash(clip), "data": images.content_hash()},
        "seconds": round(manifest.seconds, 2),
    }
