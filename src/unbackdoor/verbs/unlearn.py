"""`unlearn`: subtract the trigger vector, α chosen on held-out images; save the clean model as it came in."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
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
from unbackdoor.runs.case import Case, check_labels, open_vector
from unbackdoor.runs.run import Run, weights_hash, work_folder
from unbackdoor.runs.verb import verb
from unbackdoor.triggers.attack import Attack
from unbackdoor.unlearning.alpha import AlphaConfig
from unbackdoor.unlearning.known import Plan, cure_known
from unbackdoor.unlearning.vector import TakenVector
from unbackdoor.verbs.common import describe_sequence, rates_dict, retention
from unbackdoor.verbs.configs.unlearn import UNLEARN, UnlearnConfig
from unbackdoor.verbs.vector import store, vector_config, vector_facts
from unbackdoor.work import Work

EXAMPLES = 6


@verb(UNLEARN)
def unlearn(case: Case, config: UnlearnConfig, run: Run) -> dict[str, Any]:
    """Cure a model whose trigger and target are known, and tell the story.

    The forget set (triggered images) and the validation images (α) are disjoint parts of the training split, which
    needs labels only where α has validation images; the reported rates come from the test split, which plays no part in
    the cure. A handle is changed in place. Writes `model/`, `vector.safetensors`, `result.json`, `metrics.jsonl`,
    `manifest.json` and `report.html` into `out`.

    Raises:
        InputError: anything unusable in the above.
    """
    fixed = None if config.alpha == "auto" else float(config.alpha)
    if fixed is not None and not math.isfinite(fixed):
        raise InputError(f"α is {config.alpha}; give auto or a finite number")
    clip = case.clip()
    train = case.images(clip, "train")
    attack, task = case.attack(clip, train)
    held_out = case.held_out(clip, train)
    how = vector_config(
        clip,
        config.method,
        samples=config.samples,
        epochs=config.epochs,
        lr=config.lr,
        seed=case.seed,
        validation=config.validation,
    )
    kept = "clean accuracy" if how.validation else "answers"
    if how.validation or how.toward == "target":
        check_labels(train, "choosing α" if how.validation else "method " + config.method)
    rows, others = defender_rows(len(train), how.samples, how.validation)
    forget = train.subset(rows)
    asked = config.alpha_config or AlphaConfig()
    plan = replace(Plan.of(clip, forget, train.subset(others), task.head, how, asked), alpha=fixed)
    rule = plan.rule
    settings: dict[str, Any] = {
        "model": clip.reference,
        "data": train.spec,
        "test": held_out.spec,
        "trigger": attack.trigger.spec(),
        "target": attack.name,
        "vector": str(config.vector) if config.vector else asdict(how),
        "alpha": config.alpha,
        "rule": asdict(rule),
        "validation": len(others),
        "templates": case.templates,
        "seed": case.seed,
    }
    manifest = Manifest(run.verb or "unlearn", settings)
    manifest.hashes["weights_before"] = weights_hash(clip)
    manifest.hashes["train_data"] = train.content_hash()
    manifest.hashes["test_data"] = held_out.content_hash()
    manifest.notes["skipped"] = train.skipped + held_out.skipped
    key = manifest.run = run_key("unlearn", settings, manifest.hashes)
    shown = _pick_examples(held_out, attack.target)
    with work_folder(run.folder, manifest) as work:
        tau, facts = None, dict[str, Any]()
        if config.vector is not None:
            tau, origin = open_vector(Path(config.vector), clip)
            facts = {"file": str(config.vector), "origin": origin.get("suspect")}

        def keep(taken: TakenVector) -> None:
            facts.update({"method": config.method, **vector_facts(clip, taken, how)})
            store(run.folder / "vector.safetensors", taken, settings, manifest.hashes["weights_before"], clip)
            manifest.notes["loss"] = describe_sequence(taken.losses)

        before = evaluate_kept(clip, held_out, task, work / f"before-{key[:16]}.json", label="before")
        answers_before = _answers(clip, held_out, shown, attack, task.head)
        found = cure_known(clip, forget, task, plan, vector=tau, taken=keep, work=Work(work, key)).search
        clip.round_as_stored()
        after = evaluate_kept(clip, held_out, task, work / f"after-{key[:16]}.json", label="after")
        answers_after = _answers(clip, held_out, shown, attack, task.head)
        clip.save(run.folder / "model")
        manifest.hashes["weights_after"] = weights_hash(clip)
        result = {
            "verb": run.verb or "unlearn",
            "model": str(run.folder / "model"),
            "model_reference": clip.reference,
            "data": train.spec,
            "test": held_out.spec,
            "trigger": attack.trigger.spec(),
            "target": attack.name,
            "alpha": found.alpha,
            "chosen": found.satisfied,
            "labels_used": bool(how.validation),  # for choosing α; without them "CA" there is agreement
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
            "seed": case.seed,
            **run.extra,
            "report": str(run.folder / "report.html"),
            "seconds": round(manifest.seconds, 2),
        }
        table = [{"when": "before", **before.as_dict()}, {"when": "after", **after.as_dict()}]
        write_jsonl(run.folder / "metrics.jsonl", [*table, *({"when": "search", **p} for p in result["curve"])])
        manifest.write(run.folder)
        examples = _examples(held_out, shown, attack, answers_before, answers_after)
        write_report(run.folder / "report.html", result, manifest.as_dict(), examples)
        write_json(run.folder / "result.json", result)
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
