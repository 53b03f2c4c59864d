"""`poison`: make a backdoored model, to have something to cure. For research on models you own."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.data.shares import attacker_rows
from unbackdoor.devices import half_type
from unbackdoor.errors import InputError
from unbackdoor.evaluation import evaluate_kept
from unbackdoor.manifest import Manifest, run_key, write_json, write_jsonl
from unbackdoor.training.badclip import crafted
from unbackdoor.training.finetune import TuneConfig, checked_lr
from unbackdoor.training.plant import PoisonConfig, plant, settle
from unbackdoor.triggers.base import Trigger
from unbackdoor.verbs.common import (
    check_labels,
    describe_sequence,
    open_attack,
    open_data,
    open_model,
    open_test,
    open_trigger,
    rates_dict,
    resumable,
    weights_hash,
    work_folder,
)
from unbackdoor.verbs.poison_pairs import RATE as PAIR_RATE
from unbackdoor.verbs.poison_pairs import poison_pairs

REGIMES = ("classes", "pairs")
RATE = 0.03


def poison(
    *,
    model: str | Clip,
    data: str | ImageSet,
    trigger: str | Trigger,
    target: str,
    out: str | Path,
    poison_rate: float | None = None,
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
    regime: str = "classes",
    captions: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """Fine-tune the image tower, its zero-shot head frozen, on data of which a share is triggered and relabelled.

    The single-task regime of the paper. A tenth of the training images is left for the defender. Measures CA and
    ASR on the test split before and after, and writes `model/`, `result.json`, `metrics.jsonl`, `manifest.json`.

    Args:
        model: a model reference or a handle (changed in place).
        data: a source spec or decoded training images; `test` is needed with the latter.
        trigger: its spec, `@FILE`, or a trigger; a `badclip` without a patch is crafted first.
        target: class name that triggered images shall get.
        poison_rate: share of the training images, in (0, 1]; 0.03 by default.
        clean_label: trigger images of the target class alone and change no label.
        lr: peak learning rate; None picks 1e-5 for full-size towers, 1e-3 below 20 M parameters.
        limit, test_limit: use at most so many images.
        regime: `classes`, or `pairs` for poisoned captions and both towers, see `poison_pairs`.
        captions: of the regime `pairs` only.

    Raises:
        InputError: anything unusable in the above.
    """
    if regime not in REGIMES:
        raise InputError(f"regime {regime!r} is none of {', '.join(REGIMES)}")
    if regime == "pairs":
        return poison_pairs(
            model=model,
            data=data,
            trigger=trigger,
            target=target,
            out=out,
            poison_rate=PAIR_RATE if poison_rate is None else poison_rate,
            clean_label=clean_label,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            limit=limit,
            test=test,
            test_limit=test_limit,
            checkpoint=checkpoint,
            classes=classes,
            templates=templates,
            captions=captions,
            device=device,
            seed=seed,
        )
    if captions is not None:
        raise InputError("a captions file belongs to the regime pairs; give --regime pairs as well")
    poison_rate = RATE if poison_rate is None else poison_rate
    out = Path(out)
    clip = open_model(model, checkpoint, device)
    train = open_data(data, clip, "train", limit=limit, seed=seed, classes=classes)
    check_labels(train, "poisoning")
    rows = attacker_rows(len(train))
    own = train.subset(rows[train.labels[rows] >= 0])
    with resumable():
        ready = crafted(
            clip,
            own,
            open_trigger(trigger),
            target,
            seed=seed,
            templates=templates,
            checkpoint=out / ".work" / "craft.checkpoint",
        )
    attack, task = open_attack(clip, train, ready, target, templates)
    held_out = open_test(test, data, clip, train, limit=test_limit, classes=classes)
    tune = TuneConfig(epochs=epochs, batch_size=batch_size, lr=checked_lr(lr), seed=seed)
    settings = settle(PoisonConfig(poison_rate, clean_label, tune), clip, len(own))
    config = {
        "model": clip.reference,
        "data": train.spec,
        "test": held_out.spec,
        "trigger": attack.trigger.spec(),
        "target": attack.name,
        "poison_rate": poison_rate,
        "clean_label": clean_label,
        "limit": limit,
        "templates": templates,
        "seed": seed,
        "tune": asdict(settings.tune),
        "compute": str(half_type(clip.device)).removeprefix("torch."),
    }
    manifest = Manifest("poison", config)
    manifest.hashes["weights_before"] = weights_hash(clip)
    manifest.hashes["train_data"] = train.content_hash()
    manifest.hashes["test_data"] = held_out.content_hash()
    manifest.notes["skipped"] = train.skipped
    key = manifest.run = run_key("poison", config, manifest.hashes)
    with work_folder(out, manifest) as work:
        before = evaluate_kept(clip, held_out, task, work / f"before-{key[:16]}.json", label="before")
        done = plant(clip, own, task.head, attack, settings, checkpoint=work / "poison.checkpoint", run_key=key)
        manifest.notes.update(poisoned=done.poisoned, trained_on=done.trained_on)
        clip.round_as_stored()
        after = evaluate_kept(clip, held_out, task, work / f"after-{key[:16]}.json", label="after")
        clip.save(out / "model")
        manifest.hashes["weights_after"] = weights_hash(clip)
        manifest.notes["loss"] = describe_sequence(done.run.losses)
        manifest.notes["resumed_from"] = done.run.resumed_from
        result = {
            "verb": "poison",
            "model": str(out / "model"),
            "model_reference": clip.reference,
            "data": train.spec,
            "trigger": attack.trigger.spec(),
            "target": attack.name,
            "poison_rate": poison_rate,
            "clean_label": clean_label,
            "poisoned": done.poisoned,
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
