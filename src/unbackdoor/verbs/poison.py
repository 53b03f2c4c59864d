"""`poison`: make a backdoored model, to have something to cure. For research on models you own."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.data.poisoning import choose_poisoned
from unbackdoor.devices import training_type
from unbackdoor.evaluation import Task, evaluate_images
from unbackdoor.manifest import Manifest, write_json, write_jsonl
from unbackdoor.training.batches import batch_rows, steps_per_epoch
from unbackdoor.training.finetune import TuneConfig, tune_image_tower
from unbackdoor.training.losses import zero_shot_cross_entropy
from unbackdoor.triggers.base import Trigger
from unbackdoor.verbs.common import (
    SMALL_POISON_LR,
    attacker_rows,
    check_labels,
    describe_sequence,
    open_attack,
    open_data,
    open_model,
    rates_dict,
    run_key,
    weights_hash,
    with_lr,
    work_folder,
)


def poison(
    *,
    model: str | Clip,
    data: str | ImageSet,
    trigger: str | Trigger,
    target: str,
    out: str | Path,
    poison_rate: float = 0.03,
    clean_label: bool = False,
    epochs: int = 3,
    batch_size: int = 128,
    lr: float | None = None,
    limit: int | None = None,
    test: str | ImageSet | None = None,
    test_limit: int | None = None,
    checkpoint: Path | None = None,
    classes: str | None = None,
    templates: str | None = None,
    device: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """Fine-tune the image tower, its zero-shot head frozen, on data of which a share is triggered and relabelled.

    The single-task regime of the paper. A tenth of the training images is left for the defender. Measures CA and
    ASR on the test split before and after, and writes `model/`, `result.json`, `metrics.jsonl`, `manifest.json`.

    Args:
        model: a model reference or a handle (changed in place).
        data: a source spec or decoded training images; `test` is needed with the latter.
        target: class name that triggered images shall get.
        poison_rate: share of the training images, in (0, 1].
        clean_label: trigger images of the target class alone and change no label.
        lr: peak learning rate; None picks 1e-5 for full-size towers, 1e-3 below 20 M parameters.
        limit, test_limit: use at most so many images.

    Raises:
        InputError: anything unusable in the above.
    """
    out = Path(out)
    clip = open_model(model, checkpoint, device)
    train = open_data(data, clip, "train", limit=limit, seed=seed, classes=classes)
    check_labels(train, "poisoning")
    attack = open_attack(clip, train, trigger, target, templates)
    held_out = open_data(test if test is not None else data, clip, "test", limit=test_limit, classes=classes)
    rows = attacker_rows(len(train))
    rows = rows[train.labels[rows] >= 0]
    poisoned = torch.zeros(len(train), dtype=torch.bool)
    chosen = choose_poisoned(train.labels[rows], attack.target, poison_rate, seed, clean_label=clean_label)
    poisoned[rows[chosen]] = True
    labels = torch.where(poisoned, attack.target, train.labels)
    tune = with_lr(TuneConfig(epochs=epochs, batch_size=batch_size, seed=seed), clip, lr, SMALL_POISON_LR)
    steps = epochs * steps_per_epoch(len(rows), batch_size)
    tune = replace(tune, steps=steps)
    device_ = attack.head.device
    scale, head, compute = clip.logit_scale, attack.head, training_type(clip.device)

    def loss_at(step: int) -> torch.Tensor:
        batch = rows[batch_rows(len(rows), batch_size, seed, step)]
        images = train.float_batch(batch)
        hit = poisoned[batch]
        if hit.any():
            images[hit] = attack.trigger(images[hit], keys=batch[hit])
        embeddings = clip.encode_image(images.to(device_), compute=compute)
        return zero_shot_cross_entropy(embeddings, head, scale, labels[batch].to(device_))

    config = {
        "model": clip.reference,
        "data": train.spec,
        "test": held_out.spec,
        "trigger": attack.trigger.spec(),
        "target": attack.target_name,
        "poison_rate": poison_rate,
        "clean_label": clean_label,
        "limit": limit,
        "templates": templates,
        "seed": seed,
        "tune": asdict(tune),
        "compute": str(compute).removeprefix("torch."),
    }
    manifest = Manifest("poison", config)
    manifest.hashes["weights_before"] = weights_hash(clip)
    manifest.hashes["train_data"] = train.content_hash()
    manifest.hashes["test_data"] = held_out.content_hash()
    manifest.notes.update(poisoned=int(poisoned.sum()), trained_on=len(rows), skipped=train.skipped)
    task = Task(head, attack.trigger, attack.target)
    with work_folder(out) as work:
        before = evaluate_images(clip, held_out, task, label="before")
        key = run_key("poison", config, manifest.hashes)
        run = tune_image_tower(
            clip, loss_at, tune, steps, checkpoint=work / "poison.checkpoint", run_key=key, label="poisoning"
        )
        after = evaluate_images(clip, held_out, task, label="after")
        clip.save(out / "model")
        manifest.hashes["weights_after"] = weights_hash(clip)
        manifest.notes["loss"] = describe_sequence(run.losses)
        manifest.notes["resumed_from"] = run.resumed_from
        result = {
            "verb": "poison",
            "model": str(out / "model"),
            "model_reference": clip.reference,
            "data": train.spec,
            "trigger": attack.trigger.spec(),
            "target": attack.target_name,
            "poison_rate": poison_rate,
            "clean_label": clean_label,
            "poisoned": int(poisoned.sum()),
            "seed": seed,
            "before": rates_dict(before),
            "after": rates_dict(after),
            "seconds": round(manifest.seconds, 2),
        }
        write_jsonl(
            out / "metrics.jsonl",
            [{"when": "before", **before.as_dict()}, {"when": "after", **after.as_dict()}],
        )
        manifest.write(out)
        write_json(out / "result.json", result)
    return result
