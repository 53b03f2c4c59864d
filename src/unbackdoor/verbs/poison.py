"""`poison`: make a backdoored model, to have something to cure. For research on models you own."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from unbackdoor.data.shares import attacker_rows
from unbackdoor.devices import half_type
from unbackdoor.errors import InputError
from unbackdoor.evaluation import evaluate_kept
from unbackdoor.manifest import Manifest, run_key, write_json, write_jsonl
from unbackdoor.runs.case import Case, check_labels
from unbackdoor.runs.run import Run, resumable, weights_hash, work_folder
from unbackdoor.runs.verb import verb
from unbackdoor.training.badclip import crafted
from unbackdoor.training.finetune import TuneConfig, checked_lr
from unbackdoor.training.plant import PoisonConfig, plant, settle
from unbackdoor.verbs.common import describe_sequence, rates_dict
from unbackdoor.verbs.configs.planting import POISON, REGIMES, PoisonSettings
from unbackdoor.verbs.poison_pairs import poison_pairs

RATE = 0.03


@verb(POISON)
def poison(case: Case, config: PoisonSettings, run: Run) -> dict[str, Any]:
    """Fine-tune the image tower, its zero-shot head frozen, on data of which a share is triggered and relabelled.

    The single-task regime of the paper. A tenth of the training images is left for the defender. Measures CA and
    ASR on the test split before and after, and writes `model/`, `result.json`, `metrics.jsonl`, `manifest.json`. A
    `badclip` trigger without a patch is crafted first. A handle is changed in place.

    Raises:
        InputError: anything unusable in the above.
    """
    if config.regime not in REGIMES:
        raise InputError(f"regime {config.regime!r} is none of {', '.join(REGIMES)}")
    if config.regime == "pairs":
        return poison_pairs(case, config, run)
    if config.captions is not None:
        raise InputError("a captions file belongs to the regime pairs; give --regime pairs as well")
    rate = RATE if config.poison_rate is None else config.poison_rate
    clip = case.clip()
    train = case.images(clip, "train")
    check_labels(train, "poisoning")
    rows = attacker_rows(len(train))
    own = train.subset(rows[train.labels[rows] >= 0])
    with resumable():
        ready = crafted(
            clip,
            own,
            case.opened_trigger(),
            case.target or "",
            seed=case.seed,
            templates=case.templates,
            checkpoint=run.folder / ".work" / "craft.checkpoint",
        )
    attack, task = case.attack(clip, train, ready)
    held_out = case.held_out(clip, train)
    tune = TuneConfig(epochs=config.epochs, batch_size=config.batch_size, lr=checked_lr(config.lr), seed=case.seed)
    how = settle(PoisonConfig(rate, config.clean_label, tune), clip, len(own))
    settings = {
        "model": clip.reference,
        "data": train.spec,
        "test": held_out.spec,
        "trigger": attack.trigger.spec(),
        "target": attack.name,
        "poison_rate": rate,
        "clean_label": config.clean_label,
        "limit": case.limit,
        "templates": case.templates,
        "seed": case.seed,
        "tune": asdict(how.tune),
        "compute": str(half_type(clip.device)).removeprefix("torch."),
    }
    manifest = Manifest("poison", settings)
    manifest.hashes["weights_before"] = weights_hash(clip)
    manifest.hashes["train_data"] = train.content_hash()
    manifest.hashes["test_data"] = held_out.content_hash()
    manifest.notes["skipped"] = train.skipped
    key = manifest.run = run_key("poison", settings, manifest.hashes)
    with work_folder(run.folder, manifest) as work:
        before = evaluate_kept(clip, held_out, task, work / f"before-{key[:16]}.json", label="before")
        done = plant(clip, own, task.head, attack, how, checkpoint=work / "poison.checkpoint", run_key=key)
        manifest.notes.update(poisoned=done.poisoned, trained_on=done.trained_on)
        clip.round_as_stored()
        after = evaluate_kept(clip, held_out, task, work / f"after-{key[:16]}.json", label="after")
        clip.save(run.folder / "model")
        manifest.hashes["weights_after"] = weights_hash(clip)
        manifest.notes["loss"] = describe_sequence(done.run.losses)
        manifest.notes["resumed_from"] = done.run.resumed_from
        result = {
            "verb": "poison",
            "model": str(run.folder / "model"),
            "model_reference": clip.reference,
            "data": train.spec,
            "trigger": attack.trigger.spec(),
            "target": attack.name,
            "poison_rate": rate,
            "clean_label": config.clean_label,
            "poisoned": done.poisoned,
            "seed": case.seed,
            "before": rates_dict(before),
            "after": rates_dict(after),
            "seconds": round(manifest.seconds, 2),
        }
        write_jsonl(
            run.folder / "metrics.jsonl",
            [{"when": "before", **before.as_dict()}, {"when": "after", **after.as_dict()}],
        )
        manifest.write(run.folder)
        write_json(run.folder / "result.json", result)
    return result
