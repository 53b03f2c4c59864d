"""`evaluate`: clean accuracy, and with a trigger also ASR and triggered accuracy, in one pass."""

from __future__ import annotations

from typing import Any

from unbackdoor.answers import Answers
from unbackdoor.data.poisoning import target_index
from unbackdoor.errors import InputError
from unbackdoor.evaluation import Task, evaluate_images, evaluate_retrieval
from unbackdoor.manifest import Manifest
from unbackdoor.metrics.backdoor import COUNTINGS
from unbackdoor.runs.case import Case, check_labels, require_classes
from unbackdoor.runs.run import Run, weights_hash
from unbackdoor.runs.verb import verb
from unbackdoor.triggers.attack import Attack
from unbackdoor.verbs.configs.evaluate import EVALUATE, PRECISIONS, EvaluateConfig


@verb(EVALUATE)
def evaluate(case: Case, config: EvaluateConfig, run: Run) -> dict[str, Any]:
    """Zero-shot rates of `model` on the test split of `data` (the whole of it where it has no splits).

    Trigger and target are given both or neither. Nothing is written.

    Returns:
        `ca`, with a trigger `asr` and `triggered_accuracy`, with `retrieval` R@1/5/10 both ways under that name, each
        with value, n and 95% Wilson interval, next to what was measured (model, data, trigger, target, hashes, skipped
        images, seconds) and `precision`, how it was answered.

    Raises:
        InputError: anything unusable in the above.
    """
    if (case.trigger is None) != (case.target is None):
        raise InputError("a trigger needs a target and a target a trigger; give both or neither")
    if config.counting not in COUNTINGS:
        raise InputError(f"counting {config.counting!r} is none of {', '.join(COUNTINGS)}")
    if config.precision not in PRECISIONS:
        raise InputError(f"precision {config.precision!r} is none of {', '.join(PRECISIONS)}")
    clip = case.clip()
    images = case.images(clip, None)
    if config.retrieval and not any(images.captions or ()):
        raise InputError(f"{images.spec} holds no captions, and retrieval needs them; use captioned data")
    named = bool(images.classes) and bool((images.labels >= 0).any())
    if named or not config.retrieval or case.trigger is not None:
        check_labels(images, "evaluation")
        require_classes(images)
    chosen = None if case.trigger is None else case.opened_trigger()
    attack = None
    if chosen is not None and case.target is not None:
        index = target_index(require_classes(images), case.target)
        attack = Attack(chosen, index, images.classes[index])
    manifest = Manifest("evaluate", {})
    rates: dict[str, Any] = {}
    if named:
        task = Task(case.head(clip, images), attack, config.counting)
        views = len(images) * (1 if chosen is None else 2)
        answers = Answers.of(clip, task.head, views) if config.precision == "auto" else Answers(clip, task.head, None)
        rates.update(evaluate_images(clip, images, task, answers=answers, label="evaluating").as_dict())
        rates["precision"] = answers.facts()
    if config.retrieval:
        ways = evaluate_retrieval(clip, images, label="retrieving")
        rates["retrieval"] = {way: {f"r@{k}": r.as_dict() for k, r in found.items()} for way, found in ways.items()}
    return {
        "verb": "evaluate",
        "model": clip.reference,
        "data": images.spec,
        "trigger": None if chosen is None else chosen.spec(),
        "target": None if attack is None else attack.name,
        "counting": config.counting,
        **rates,
        "skipped": images.skipped,
        "hashes": {"weights": weights_hash(clip), "data": images.content_hash()},
        "seconds": round(manifest.seconds, 2),
    }
