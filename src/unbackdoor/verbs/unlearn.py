"""`unlearn`: subtract the trigger vector, α chosen on held-out images; save the clean model as it came in."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unbackdoor.answers import predict
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.data.shares import defender_rows
from unbackdoor.errors import InputError
from unbackdoor.evaluation import evaluate_kept
from unbackdoor.manifest import Manifest, run_key, write_json, write_jsonl
from unbackdoor.report import Example, write_report
from unbackdoor.triggers.attack import Attack
from unbackdoor.triggers.base import Trigger
from unbackdoor.unlearning.alpha import AlphaConfig
from unbackdoor.unlearning.known import Plan, choosing, cure_known, rule_of
from unbackdoor.unlearning.vector import TakenVector
from unbackdoor.verbs.common import (
    check_labels,
    describe_sequence,
    open_attack,
    open_data,
    open_model,
    open_test,
    open_vector,
    rates_dict,
    retention,
    weights_hash,
    work_folder,
)
from unbackdoor.verbs.vector import DEFAULT_METHOD, store, vector_config, vector_facts
from unbackdoor.work import Work

EXAMPLES = 6


def unlearn(
    *,
    model: str | Clip,
    data: str | ImageSet,
    trigger: str | Trigger,
    target: str,
    out: str | Path,
    vector: str | Path | None = None,
    alpha: str | float = "auto",
    alpha_config: AlphaConfig | None = None,
    samples: int | None = None,
    validation: int | None = None,
    method: str = DEFAULT_METHOD,
    epochs: int | None = None,
    lr: float | None = None,
    test: str | ImageSet | None = None,
    test_limit: int | None = None,
    checkpoint: Path | None = None,
    classes: str | None = None,
    templates: str | None = None,
    device: str = "auto",
    seed: int = 0,
    verb: str = "unlearn",
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Cure a model whose trigger and target are known, and tell the story.

    The forget set (triggered images) and the validation images (α) are disjoint parts of the training split, which
    needs labels only where α has validation images; the reported rates come from the test split, which plays no part in
    the cure. Writes `model/`, `vector.safetensors`,
    `result.json`, `metrics.jsonl`, `manifest.json` and `report.html` into `out`.

    Args:
        model: a model reference or a handle (changed in place).
        vector: a vector file made by `vector`; None takes one now, by `method`.
        alpha: `auto`, or a number to subtract without a search.
        alpha_config: the search's settings and rule.
        samples: images of the forget set; None takes the method's number.
        validation: images with labels for choosing α, 0 to choose it on views of the forget set; None
            takes the method's number.
        verb, extra: how the result names itself and what it carries besides (used by `demo`).

    Raises:
        InputError: anything unusable in the above.
    """
    out, rule = Path(out), alpha_config or AlphaConfig()
    fixed = None if alpha == "auto" else float(alpha)
    if fixed is not None and not math.isfinite(fixed):
        raise InputError(f"α is {alpha}; give auto or a finite number")
    clip = open_model(model, checkpoint, device)
    train = open_data(data, clip, "train", seed=seed, classes=classes)
    attack, task = open_attack(clip, train, trigger, target, templates)
    held_out = open_test(test, data, clip, train, limit=test_limit, classes=classes)
    config = vector_config(clip, method, samples=samples, epochs=epochs, lr=lr, seed=seed, validation=validation)
    rule = rule_of(config, rule)
    kept = "clean accuracy" if config.validation else "answers"
    if config.validation or config.toward == "target":
        check_labels(train, "choosing α" if config.validation else f"method {method}")
    rows, others = defender_rows(len(train), config.samples, config.validation)
    forget = train.subset(rows)
    plan = Plan(config, choosing(clip, forget, train.subset(others), task.head, config), rule, fixed)
    settings: dict[str, Any] = {
        "model": clip.reference,
        "data": train.spec,
        "test": held_out.spec,
        "trigger": attack.trigger.spec(),
        "target": attack.name,
        "vector": str(vector) if vector else asdict(config),
        "alpha": alpha,
        "rule": asdict(rule),
        "validation": len(others),
        "templates": templates,
        "seed": seed,
    }
    manifest = Manifest(verb, settings)
    manifest.hashes["weights_before"] = weights_hash(clip)
    manifest.hashes["train_data"] = train.content_hash()
    manifest.hashes["test_data"] = held_out.content_hash()
    manifest.notes["skipped"] = train.skipped + held_out.skipped
    key = manifest.run = run_key("unlearn", settings, manifest.hashes)
    shown = _pick_examples(held_out, attack.target)
    with work_folder(out, manifest) as work:
        tau, facts = None, dict[str, Any]()
        if vector is not None:
            tau, origin = open_vector(Path(vector), clip)
            facts = {"file": str(vector), "origin": origin.get("suspect")}

        def keep(taken: TakenVector) -> None:
            facts.update({"method": method, **vector_facts(clip, taken, config)})
            store(out / "vector.safetensors", taken, settings, manifest.hashes["weights_before"], clip)
            manifest.notes["loss"] = describe_sequence(taken.losses)

        before = evaluate_kept(clip, held_out, task, work / f"before-{key[:16]}.json", label="before")
        answers_before = _answers(clip, held_out, shown, attack, task.head)
        found = cure_known(clip, forget, task, plan, vector=tau, taken=keep, work=Work(work, key)).search
        clip.round_as_stored()
        after = evaluate_kept(clip, held_out, task, work / f"after-{key[:16]}.json", label="after")
        answers_after = _answers(clip, held_out, shown, attack, task.head)
        clip.save(out / "model")
        manifest.hashes["weights_after"] = weights_hash(clip)
        result = {
            "verb": verb,
            "model": str(out / "model"),
            "model_reference": clip.reference,
            "data": train.spec,
            "test": held_out.spec,
            "trigger": attack.trigger.spec(),
            "target": attack.name,
            "alpha": found.alpha,
            "chosen": found.satisfied,
            "labels_used": bool(config.validation),  # for choosing α; without them "CA" there is agreement
            "rule": rule.sentence(kept) if fixed is None else "α given by the user",
            "message": found.message,
            "nothing_to_remove": found.nothing,
            "retention": retention(before, after),
            "before": rates_dict(before),
            "after": rates_dict(after),
            "curve": [point.as_dict() for point in found.curve],
            "tolerance": rule.tolerance,
            "ca_floor": rule.floor * found.curve[0].ca.value if found.curve else None,
            "vector": facts,
            "seed": seed,
            **(extra or {}),
            "report": str(out / "report.html"),
            "seconds": round(manifest.seconds, 2),
        }
        table = [{"when": "before", **before.as_dict()}, {"when": "after", **after.as_dict()}]
        write_jsonl(out / "metrics.jsonl", [*table, *({"when": "search", **p} for p in result["curve"])])
        manifest.write(out)
        examples = _examples(held_out, shown, attack, answers_before, answers_after)
        write_report(out / "report.html", result, manifest.as_dict(), examples)
        write_json(out / "result.json", result)
    return result


def _pick_examples(data: ImageSet, target: int) -> Tensor:
    """The first images of as many different classes as are shown, target class left out."""
    picked: dict[int, int] = {}
    for i, label in enumerate(data.labels.tolist()):
        if label not in (target, -1) and label not in picked:
            picked[label] = i
        if len(picked) == EXAMPLES:
            break
    return torch.tensor(list(picked.values()), dtype=torch.int64)


def _answers(clip: Clip, data: ImageSet, rows: Tensor, attack: Attack, head: Tensor) -> tuple[list[int], list[int]]:
    """Predicted classes of the clean and of the triggered examples."""
    images = data.float_batch(rows).to(head.device)
    clean = predict(clip, images, head)
    triggered = predict(clip, attack.trigger(images, keys=rows), head)
    return clean.tolist(), triggered.tolist()


def _examples(
    data: ImageSet,
    rows: Tensor,
    attack: Attack,
    before: tuple[list[int], list[int]],
    after: tuple[list[int], list[int]],
) -> list[Example]:
    images = data.float_batch(rows)
    triggered = (attack.trigger(images, keys=rows) * 255).round().to(torch.uint8)
    names = data.classes
    return [
        Example(
            clean=data.images[row],
            triggered=triggered[i],
            truth=names[int(data.labels[row])],
            clean_before=names[before[0][i]],
            clean_after=names[after[0][i]],
            triggered_before=names[before[1][i]],
            triggered_after=names[after[1][i]],
        )
        for i, row in enumerate(rows.tolist())
    ]
