"""`evaluate`: clean accuracy, and with a trigger also ASR and triggered accuracy, in one pass."""

from __future__ import annotations

from unbackdoor.base.errors import InputError
from unbackdoor.base.manifest import Manifest
from unbackdoor.data.names import target_index
from unbackdoor.evaluation import Task, evaluate_images
from unbackdoor.evaluation.half import Answers
from unbackdoor.metrics.backdoor import COUNTINGS
from unbackdoor.runs.case import Case, check_labels, require_classes
from unbackdoor.runs.result import Rates
from unbackdoor.runs.run import Run, weights_hash
from unbackdoor.runs.verb import verb
from unbackdoor.triggers.attack import Attack
from unbackdoor.verbs.common import recalls
from unbackdoor.verbs.configs.evaluate import EVALUATE, PRECISIONS, EvaluateConfig
from unbackdoor.verbs.results import EvaluateResult
from unbackdoor.verbs.results.measures import Precision


@verb(EVALUATE)
def evaluate(case: Case, config: EvaluateConfig, run: Run) -> EvaluateResult:
    """Zero-shot rates of `model` on the test split of `data` (the whole of it where it has no splits).

    Trigger and target are given both or neither. Nothing is written.

    Returns:
        `ca`, with a trigger `asr` and `triggered_accuracy`, with `retrieval` R@1/5/10 both ways under that name, each
        with value, n and 95% Wilson interval, next to what was measured (model, data, trigger, target, hashes, skipped
        images, seconds) and `precision`, how it was answered.

    Raises:
        InputError: anything unusable in the above.
    """
    _check(case, config)
    clip = case.clip()
    images = case.images(clip, None)
    if config.retrieval and not any(images.captions or ()):
        raise InputError(f"{images.spec} holds no captions, and retrieval needs them; use captioned data")
    named = bool(images.classes) and bool((images.labels >= 0).any())
    if named or not config.retrieval or case.trigger is not None:
        check_labels(images, "evaluation")
        require_classes(images)
    attack = None
    if case.trigger is not None and case.target is not None:
        trigger, index = case.opened_trigger(), target_index(require_classes(images), case.target)
        attack = Attack(trigger, index, images.classes[index])
    manifest = Manifest("evaluate", {})
    rates: Rates | None = None
    precision: Precision | None = None
    if named:
        task = Task(case.head(clip, images), attack, config.counting)
        views = len(images) * (1 if attack is None else 2)
        answers = Answers.of(clip, task.head, views) if config.precision == "auto" else Answers(clip, task.head, None)
        rates = Rates.of(evaluate_images(clip, images, task, answers=answers, label="evaluating"))
        precision = Precision(**answers.facts())
    return EvaluateResult(
        model=clip.reference,
        data=images.spec,
        trigger=None if attack is None else attack.trigger.spec(),
        target=None if attack is None else attack.name,
        counting=config.counting,
        ca=None if rates is None else rates.ca,
        asr=None if rates is None else rates.asr,
        triggered_accuracy=None if rates is None else rates.triggered_accuracy,
        precision=precision,
        retrieval=recalls(clip, images, "retrieving") if config.retrieval else None,
        skipped=images.skipped,
        hashes={"weights": weights_hash(clip), "data": images.content_hash()},
        seconds=round(manifest.seconds, 2),
    )


def _check(case: Case, config: EvaluateConfig) -> None:
    """Refuse settings that cannot be used.

    Raises:
        InputError: there is one.
    """
    if (case.trigger is None) != (case.target is None):
        raise InputError("a trigger needs a target and a target a trigger; give both or neither")
    if config.counting not in COUNTINGS:
        raise InputError(f"counting {config.counting!r} is none of {', '.join(COUNTINGS)}")
    if config.precision not in PRECISIONS:
        raise InputError(f"precision {config.precision!r} is none of {', '.join(PRECISIONS)}")
