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
from unbackdoor.training.finetune import TuneConfig, checked_lr
from unbackdoor.training.plant_pairs import PairPoisonConfig, plant_pairs, settle_pairs
from unbackdoor.triggers.attack import Attack
from unbackdoor.triggers.base import Trigger
from unbackdoor.verbs.common import (
    check_trigger,
    describe_sequence,
    open_head,
    open_model,
    rates_dict,
    weights_hash,
    work_folder,
)

RATE = 0.003  # 1,500 of 500,000
TEMPLATES = "openai-imagenet"


def poison_pairs(
    *,
    model: str | Clip,
    data: str | ImageSet | Pairs,
    trigger: str | Trigger,
    target: str,
    out: str | Path,
    poison_rate: float = RATE,
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
    captions: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """Fine-tune both towers on image–caption pairs of which some are triggered and speak of the target.

    Zero-shot CA and ASR are measured where `test` has labels and class names, retrieval R@1/5/10 where it has captions,
    before and after; the head is computed anew, since the text tower moves. Of labelled images, a tenth is left for the
    defender. Writes what `poison` writes.

    Args:
        data: a source of pairs (see `data.pairs.open_pairs`), or decoded training images.
        target: class name, or any word where `test` has no classes.
        poison_rate: share of the pairs; 0 trains on clean pairs, for comparison.
        clean_label: trigger pairs alone that mention the target, and change no caption.
        test: a source to measure on; by default the test split of `data`, which streamed sources lack.
        templates: for poisoned captions, captions of labelled images and the head; by default OpenAI's 80 for the
            captions and the usual single one for the head.
        captions: JSON file with synonyms and descriptions of the classes.

    Raises:
        InputError: anything unusable in the above.
    """
    out = Path(out)
    clip = open_model(model, checkpoint, device)
    attack_trigger = check_trigger(clip, trigger)
    sentences = find_templates(templates or TEMPLATES)
    pairs = _open(data, clip, sentences, captions, limit, seed, classes)
    held_out = _test_set(test, data, clip, test_limit, classes)
    if isinstance(pairs, ImagePairs):
        held_out = _by_training(held_out, pairs.images.classes)
    named = bool(held_out.classes) and bool((held_out.labels >= 0).any())
    if not named and not any(held_out.captions or ()):
        raise InputError(f"{held_out.spec} has neither class names with labels nor captions to measure with")
    if named:
        check_named(held_out.spec, held_out.classes)
    index = target_index(held_out.classes, target) if named else -1
    attack = Attack(attack_trigger, index, held_out.classes[index] if named else target)
    settings = PairPoisonConfig(
        rate=poison_rate,
        clean_label=clean_label,
        templates=sentences,
        tune=TuneConfig(epochs=epochs, batch_size=batch_size, lr=checked_lr(lr), towers="both", seed=seed),
    )
    settings = settle_pairs(settings, clip, len(pairs))
    config = {
        "model": clip.reference,
        "regime": "pairs",
        "data": pairs.spec,
        "test": held_out.spec,
        "trigger": attack.trigger.spec(),
        "target": attack.name,
        "poison_rate": poison_rate,
        "clean_label": clean_label,
        "limit": limit,
        "templates": templates,
        "captions": None if captions is None else str(captions),
        "seed": seed,
        "tune": asdict(settings.tune),
        "compute": str(half_type(clip.device)).removeprefix("torch."),
    }
    manifest = Manifest("poison", config)
    manifest.hashes["weights_before"] = weights_hash(clip)
    manifest.hashes["train_data"] = pairs.content_hash()
    manifest.hashes["test_data"] = held_out.content_hash()
    key = manifest.run = run_key("poison", config, manifest.hashes)
    with work_folder(out, manifest) as work:
        before = _measure(clip, held_out, attack, templates, named, work / f"before-{key[:16]}.json")
        planted = attack if poison_rate else None
        done = plant_pairs(clip, pairs, planted, settings, checkpoint=work / "poison.checkpoint", run_key=key)
        manifest.notes.update(poisoned=done.poisoned, trained_on=done.trained_on, skipped=pairs.skipped)
        clip.round_as_stored()
        after = _measure(clip, held_out, attack, templates, named, work / f"after-{key[:16]}.json")
        clip.save(out / "model")
        manifest.hashes["weights_after"] = weights_hash(clip)
        manifest.notes["loss"] = describe_sequence(done.run.losses)
        manifest.notes["resumed_from"] = done.run.resumed_from
        result = {
            "verb": "poison",
            "regime": "pairs",
            "model": str(out / "model"),
            "model_reference": clip.reference,
            "data": pairs.spec,
            "test": held_out.spec,
            "trigger": attack.trigger.spec(),
            "target": attack.name,
            "poison_rate": poison_rate,
            "clean_label": clean_label,
            "poisoned": done.poisoned,
            "trained_on": done.trained_on,
            "skipped": pairs.skipped,
            "seed": seed,
            "before": before,
            "after": after,
            "seconds": round(manifest.seconds, 2),
        }
        losses = [{"step": i, "loss": loss} for i, loss in enumerate(done.run.losses)]
        write_jsonl(out / "metrics.jsonl", [{"when": "before", **before}, {"when": "after", **after}, *losses])
        manifest.write(out)
        write_json(out / "result.json", result)
    return result


def _open(
    data: str | ImageSet | Pairs,
    clip: Clip,
    sentences: tuple[str, ...],
    captions: str | Path | None,
    limit: int | None,
    seed: int,
    classes: str | None,
) -> Pairs:
    pairs: Pairs
    if isinstance(data, str):
        pairs = open_pairs(
            data,
            side=clip.frame,
            templates=sentences,
            captions=captions,
            limit=limit,
            seed=seed,
            classes=classes,
        )
    else:
        pairs = class_pairs(data, sentences, captions) if isinstance(data, ImageSet) else data
    if isinstance(pairs, ImagePairs):
        return replace(pairs, images=pairs.images.subset(attacker_rows(len(pairs))))
    return pairs


def _test_set(test: Any, data: Any, clip: Clip, limit: int | None, classes: str | None) -> ImageSet:
    asked = data if test is None else test
    if isinstance(asked, ImageSet) and test is not None:
        return asked
    if not isinstance(asked, str) or (test is None and data.partition(":")[0] in ("wds", "csv")):
        raise InputError("these training pairs have no test split: give another source to measure on with --test")
    source = data if isinstance(data, str) else ""
    return load_test(test, source, side=clip.frame, of=(), limit=limit, classes=classes)


def _by_training(held_out: ImageSet, classes: tuple[str, ...]) -> ImageSet:
    """The test set by training's classes, which may be more; by its own where it is another set."""
    try:
        return reconciled(held_out, classes)
    except InputError:
        return held_out


def _measure(
    clip: Clip, data: ImageSet, attack: Attack, templates: str | None, named: bool, kept: Path
) -> dict[str, Any]:
    """CA, ASR and triggered accuracy with the model's present head, and retrieval where there are captions.

    Args:
        kept: where the counts are kept while they are made; named for when they are.
    """
    found: dict[str, Any] = {}
    when = kept.name.partition("-")[0]
    if named:
        task = Task(open_head(clip, data, templates), attack)
        found.update(rates_dict(evaluate_kept(clip, data, task, kept, label=when)))
    if any(data.captions or ()):
        ways = evaluate_retrieval(clip, data, label=f"{when}, retrieval")
        found["retrieval"] = {way: {f"r@{k}": r.as_dict() for k, r in rates.items()} for way, rates in ways.items()}
    return found
