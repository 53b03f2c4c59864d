"""`poison --regime pairs`: make a backdoored model from poisoned caption pairs, both towers learning."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from unbackdoor.clip.handle import Clip
from unbackdoor.data.classes import check_named, reconciled
from unbackdoor.data.classnames import templates as find_templates
from unbackdoor.data.images import ImageSet
from unbackdoor.data.openpairs import open_pairs
from unbackdoor.data.pairs import ImagePairs, Pairs, class_pairs
from unbackdoor.data.poisoning import target_index
from unbackdoor.data.shares import attacker_rows
from unbackdoor.data.specs import load_test
from unbackdoor.devices import half_type
from unbackdoor.errors import InputError
from unbackdoor.evaluation import Task, evaluate_kept, evaluate_retrieval
from unbackdoor.manifest import Manifest, run_key, write_json, write_jsonl
from unbackdoor.runs.case import Case
from unbackdoor.runs.run import Run, weights_hash, work_folder
from unbackdoor.training.finetune import TuneConfig, checked_lr
from unbackdoor.training.plant_pairs import PairPoisonConfig, plant_pairs, settle_pairs
from unbackdoor.triggers.attack import Attack
from unbackdoor.verbs.common import describe_sequence, rates_dict
from unbackdoor.verbs.configs.planting import PoisonSettings

RATE = 0.003  # 1,500 of 500,000
TEMPLATES = "openai-imagenet"


def poison_pairs(case: Case, config: PoisonSettings, run: Run) -> dict[str, Any]:
    """Fine-tune both towers on image–caption pairs of which some are triggered and speak of the target.

    Zero-shot CA and ASR are measured where the test set has labels and class names, retrieval R@1/5/10 where it has
    captions, before and after; the head is computed anew, since the text tower moves. Of labelled images, a tenth is
    left for the defender. Writes what `poison` writes.

    The data are a source of pairs (see `data.openpairs`), or decoded training images; streamed sources have no test
    split, and need another to measure on. The target is a class name, or any word where the test set has no classes.
    Templates are for poisoned captions, captions of labelled images and the head; by default OpenAI's 80 for the
    captions and the usual single one for the head.

    Raises:
        InputError: anything unusable in the above.
    """
    clip = case.clip()
    trigger = case.fitting_trigger(clip)
    sentences = find_templates(case.templates or TEMPLATES)
    pairs = _open(case, clip, sentences, config.captions)
    held_out = _test_set(case, clip)
    if isinstance(pairs, ImagePairs):
        held_out = _by_training(held_out, pairs.images.classes)
    named = bool(held_out.classes) and bool((held_out.labels >= 0).any())
    if not named and not any(held_out.captions or ()):
        raise InputError(f"{held_out.spec} has neither class names with labels nor captions to measure with")
    if named:
        check_named(held_out.spec, held_out.classes)
    wanted = case.target or ""
    index = target_index(held_out.classes, wanted) if named else -1
    attack = Attack(trigger, index, held_out.classes[index] if named else wanted)
    rate = RATE if config.poison_rate is None else config.poison_rate
    how = PairPoisonConfig(
        rate=rate,
        clean_label=config.clean_label,
        templates=sentences,
        tune=TuneConfig(
            epochs=config.epochs, batch_size=config.batch_size, lr=checked_lr(config.lr), towers="both", seed=case.seed
        ),
    )
    how = settle_pairs(how, clip, len(pairs))
    settings = {
        "model": clip.reference,
        "regime": "pairs",
        "data": pairs.spec,
        "test": held_out.spec,
        "trigger": attack.trigger.spec(),
        "target": attack.name,
        "poison_rate": rate,
        "clean_label": config.clean_label,
        "limit": case.limit,
        "templates": case.templates,
        "captions": None if config.captions is None else str(config.captions),
        "seed": case.seed,
        "tune": asdict(how.tune),
        "compute": str(half_type(clip.device)).removeprefix("torch."),
    }
    manifest = Manifest("poison", settings)
    manifest.hashes["weights_before"] = weights_hash(clip)
    manifest.hashes["train_data"] = pairs.content_hash()
    manifest.hashes["test_data"] = held_out.content_hash()
    key = manifest.run = run_key("poison", settings, manifest.hashes)
    with work_folder(run.folder, manifest) as work:
        before = _measure(clip, held_out, attack, case, named, work / f"before-{key[:16]}.json")
        planted = attack if rate else None
        done = plant_pairs(clip, pairs, planted, how, checkpoint=work / "poison.checkpoint", run_key=key)
        manifest.notes.update(poisoned=done.poisoned, trained_on=done.trained_on, skipped=pairs.skipped)
        clip.round_as_stored()
        after = _measure(clip, held_out, attack, case, named, work / f"after-{key[:16]}.json")
        clip.save(run.folder / "model")
        manifest.hashes["weights_after"] = weights_hash(clip)
        manifest.notes["loss"] = describe_sequence(done.run.losses)
        manifest.notes["resumed_from"] = done.run.resumed_from
        result = {
            "verb": "poison",
            "regime": "pairs",
            "model": str(run.folder / "model"),
            "model_reference": clip.reference,
            "data": pairs.spec,
            "test": held_out.spec,
            "trigger": attack.trigger.spec(),
            "target": attack.name,
            "poison_rate": rate,
            "clean_label": config.clean_label,
            "poisoned": done.poisoned,
            "trained_on": done.trained_on,
            "skipped": pairs.skipped,
            "seed": case.seed,
            "before": before,
            "after": after,
            "seconds": round(manifest.seconds, 2),
        }
        losses = [{"step": i, "loss": loss} for i, loss in enumerate(done.run.losses)]
        write_jsonl(run.folder / "metrics.jsonl", [{"when": "before", **before}, {"when": "after", **after}, *losses])
        manifest.write(run.folder)
        write_json(run.folder / "result.json", result)
    return result


def _open(case: Case, clip: Clip, sentences: tuple[str, ...], captions: str | Path | None) -> Pairs:
    pairs: Pairs
    if isinstance(case.data, str):
        pairs = open_pairs(
            case.data,
            side=clip.frame,
            templates=sentences,
            captions=captions,
            limit=case.limit,
            seed=case.seed,
            classes=case.classes,
        )
    else:
        pairs = class_pairs(case.data, sentences, captions) if isinstance(case.data, ImageSet) else case.data
    if isinstance(pairs, ImagePairs):
        return replace(pairs, images=pairs.images.subset(attacker_rows(len(pairs))))
    return pairs


def _test_set(case: Case, clip: Clip) -> ImageSet:
    data, test = case.data, case.test
    asked = data if test is None else test
    if isinstance(asked, ImageSet) and test is not None:
        return asked
    if not isinstance(asked, str) or (test is None and asked.partition(":")[0] in ("wds", "csv")):
        raise InputError("these training pairs have no test split: give another source to measure on with --test")
    source = data if isinstance(data, str) else ""
    return load_test(test, source, side=clip.frame, of=(), limit=case.test_limit, classes=case.classes)


def _by_training(held_out: ImageSet, classes: tuple[str, ...]) -> ImageSet:
    """The test set by training's classes, which may be more; by its own where it is another set."""
    try:
        return reconciled(held_out, classes)
    except InputError:
        return held_out


def _measure(clip: Clip, data: ImageSet, attack: Attack, case: Case, named: bool, kept: Path) -> dict[str, Any]:
    """CA, ASR and triggered accuracy with the model's present head, and retrieval where there are captions.

    Args:
        kept: where the counts are kept while they are made; named for when they are.
    """
    found: dict[str, Any] = {}
    when = kept.name.partition("-")[0]
    if named:
        task = Task(case.head(clip, data), attack)
        found.update(rates_dict(evaluate_kept(clip, data, task, kept, label=when)))
    if any(data.captions or ()):
        ways = evaluate_retrieval(clip, data, label=f"{when}, retrieval")
        found["retrieval"] = {way: {f"r@{k}": r.as_dict() for k, r in rates.items()} for way, rates in ways.items()}
    return found
