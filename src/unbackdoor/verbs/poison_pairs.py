"""`poison --regime pairs`: make a backdoored model from poisoned caption pairs, both towers learning."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from unbackdoor.attacks.plant_pairs import PairPoisonConfig, plant_pairs, settle_pairs
from unbackdoor.base.devices import half_type
from unbackdoor.base.errors import InputError
from unbackdoor.base.manifest import run_key
from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.data.classes import check_named, reconciled
from unbackdoor.data.classnames import templates as find_templates
from unbackdoor.data.images import ImageSet
from unbackdoor.data.names import target_index
from unbackdoor.data.openpairs import open_pairs
from unbackdoor.data.pairs import ImagePairs, Pairs, Wording, class_pairs
from unbackdoor.data.shares import attacker_rows
from unbackdoor.data.specs import load_test
from unbackdoor.evaluation import Task
from unbackdoor.runs.case import Case
from unbackdoor.runs.result import RateTable, plain
from unbackdoor.runs.run import Run, finish, work_folder
from unbackdoor.training.finetune import TuneConfig, checked_lr
from unbackdoor.triggers.attack import Attack
from unbackdoor.verbs.common import keep_planted, manifest_of, measured, recalls
from unbackdoor.verbs.configs.planting import PoisonSettings
from unbackdoor.verbs.results import PlantResult

RATE = 0.003  # 1,500 of 500,000
TEMPLATES = "openai-imagenet"


def poison_pairs(case: Case, config: PoisonSettings, run: Run) -> PlantResult:
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
    ready = _ready(case, config)
    clip, pairs, attack = ready.clip, ready.pairs, ready.attack
    settings = _settings(case, config, ready)
    manifest = manifest_of("poison", settings, clip, "weights_before", train_data=pairs, test_data=ready.held_out)
    key = manifest.run = run_key("poison", settings, manifest.hashes)
    with work_folder(run.folder, manifest) as work:
        before = _measured(case, ready, work, "before", key)
        poison = attack if ready.how.rate else None
        planted = plant_pairs(clip, pairs, poison, ready.how, work=Work(work, key))
        manifest.notes["skipped"] = pairs.skipped
        clip.round_as_stored()
        after = _measured(case, ready, work, "after", key)
        keep_planted(run.folder, clip, manifest, planted)
        result = PlantResult(
            regime="pairs",
            model=str(run.folder / "model"),
            model_reference=clip.reference,
            data=pairs.spec,
            test=ready.held_out.spec,
            trigger=attack.trigger.spec(),
            target=attack.name,
            poison_rate=ready.how.rate,
            clean_label=config.clean_label,
            poisoned=planted.poisoned,
            trained_on=planted.trained_on,
            skipped=pairs.skipped,
            seed=case.seed,
            before=before,
            after=after,
            seconds=round(manifest.seconds, 2),
        )
        rows = [{"when": when, **plain(table)} for when, table in (("before", before), ("after", after))]
        losses = [{"step": i, "loss": loss} for i, loss in enumerate(planted.run.losses)]
        finish(run.folder, manifest, result, metrics=[*rows, *losses])
    return result


@dataclass(frozen=True)
class _Ready:
    """What a backdoor is planted with.

    Args:
        pairs, held_out: to train on, the attacker's share, and to measure on.
        named: the test set has class names and labels, so that zero-shot rates can be measured.
        how: learning rate and steps settled.
    """

    clip: Clip
    pairs: Pairs
    held_out: ImageSet
    named: bool
    attack: Attack
    how: PairPoisonConfig


def _ready(case: Case, config: PoisonSettings) -> _Ready:
    """Open everything.

    Raises:
        InputError: anything unusable in it.
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
    lr = checked_lr(config.lr)
    how = PairPoisonConfig(
        rate=RATE if config.poison_rate is None else config.poison_rate,
        clean_label=config.clean_label,
        templates=sentences,
        tune=TuneConfig(epochs=config.epochs, batch_size=config.batch_size, lr=lr, towers="both", seed=case.seed),
    )
    return _Ready(clip, pairs, held_out, named, attack, settle_pairs(how, clip, len(pairs)))


def _settings(case: Case, config: PoisonSettings, ready: _Ready) -> dict[str, Any]:
    return {
        "model": ready.clip.reference,
        "regime": "pairs",
        "data": ready.pairs.spec,
        "test": ready.held_out.spec,
        "trigger": ready.attack.trigger.spec(),
        "target": ready.attack.name,
        "poison_rate": ready.how.rate,
        "clean_label": config.clean_label,
        "limit": case.limit,
        "templates": case.templates,
        "captions": None if config.captions is None else str(config.captions),
        "seed": case.seed,
        "tune": asdict(ready.how.tune),
        "compute": str(half_type(ready.clip.device)).removeprefix("torch."),
    }


def _open(case: Case, clip: Clip, sentences: tuple[str, ...], captions: str | Path | None) -> Pairs:
    pairs: Pairs
    if isinstance(case.data, str):
        pairs = open_pairs(
            case.data,
            side=clip.frame,
            wording=Wording(sentences, captions),
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


def _measured(case: Case, ready: _Ready, work: Path, when: str, run: str) -> RateTable:
    """CA, ASR and triggered accuracy with the model's present head, and retrieval where there are captions.

    Args:
        when, run: as for `common.measured`.
    """
    clip, data, rates = ready.clip, ready.held_out, None
    if ready.named:
        rates = measured(clip, data, Task(case.head(clip, data), ready.attack), work, when, run)
    return RateTable.of(rates, recalls(clip, data, f"{when}, retrieval") if any(data.captions or ()) else None)
