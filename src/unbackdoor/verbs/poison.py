"""`poison`: make a backdoored model, to have something to cure. For research on models you own."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from unbackdoor.attacks.badclip import crafted
from unbackdoor.attacks.plant import PoisonConfig, plant, settle
from unbackdoor.base.devices import half_type
from unbackdoor.base.errors import InputError
from unbackdoor.base.manifest import run_key
from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.data.shares import attacker_rows
from unbackdoor.evaluation import Task
from unbackdoor.runs.case import Case, check_labels
from unbackdoor.runs.result import RateTable
from unbackdoor.runs.run import Run, finish, resumable, work_folder
from unbackdoor.runs.verb import verb
from unbackdoor.training.finetune import TuneConfig, checked_lr
from unbackdoor.triggers.attack import Attack
from unbackdoor.verbs.common import keep_planted, manifest_of, measured, subjects, when_rows
from unbackdoor.verbs.configs.planting import POISON, REGIMES, PoisonSettings
from unbackdoor.verbs.poison_pairs import poison_pairs
from unbackdoor.verbs.results import PlantResult

RATE = 0.03


@verb(POISON)
def poison(case: Case, config: PoisonSettings, run: Run) -> PlantResult:
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
    ready = _ready(case, config, run)
    clip, train, attack = ready.clip, ready.train, ready.attack
    settings = _settings(case, ready)
    manifest = manifest_of("poison", settings, clip, "weights_before", train_data=train, test_data=ready.held_out)
    manifest.notes["skipped"] = train.skipped
    key = manifest.run = run_key("poison", settings, manifest.hashes)
    with work_folder(run.folder, manifest) as work:
        before = measured(clip, ready.held_out, ready.task, work, "before", key)
        planted = plant(clip, ready.own, ready.task.head, attack, ready.how, work=Work(work, key))
        clip.round_as_stored()
        after = measured(clip, ready.held_out, ready.task, work, "after", key)
        keep_planted(run.folder, clip, manifest, planted)
        result = PlantResult(
            model=str(run.folder / "model"),
            model_reference=clip.reference,
            data=train.spec,
            trigger=attack.trigger.spec(),
            target=attack.name,
            poison_rate=ready.how.rate,
            clean_label=config.clean_label,
            poisoned=planted.poisoned,
            seed=case.seed,
            before=RateTable.of(before),
            after=RateTable.of(after),
            seconds=round(manifest.seconds, 2),
        )
        finish(run.folder, manifest, result, metrics=when_rows(before, after))
    return result


@dataclass(frozen=True)
class _Ready:
    """What a backdoor is planted with.

    Args:
        train, own: the training images, and the attacker's share of those with labels.
        held_out: images to measure on.
        how: learning rate and steps settled.
    """

    clip: Clip
    train: ImageSet
    own: ImageSet
    held_out: ImageSet
    attack: Attack
    task: Task
    how: PoisonConfig


def _ready(case: Case, config: PoisonSettings, run: Run) -> _Ready:
    """Open everything; a trigger that has to be crafted is.

    Raises:
        InputError: anything unusable in it.
    """
    rate = RATE if config.poison_rate is None else config.poison_rate
    clip = case.clip()
    train = case.images(clip, "train")
    check_labels(train, "poisoning")
    rows = attacker_rows(len(train))
    own = train.subset(rows[train.labels[rows] >= 0])
    with resumable():
        trigger = crafted(
            clip,
            own,
            case.opened_trigger(),
            case.target or "",
            seed=case.seed,
            templates=case.templates,
            work=Work(run.folder / ".work"),
        )
    attack, task = case.attack(clip, train, trigger)
    held_out = case.held_out(clip, train)
    tune = TuneConfig(epochs=config.epochs, batch_size=config.batch_size, lr=checked_lr(config.lr), seed=case.seed)
    how = settle(PoisonConfig(rate, config.clean_label, tune), clip, len(own))
    return _Ready(clip, train, own, held_out, attack, task, how)


def _settings(case: Case, ready: _Ready) -> dict[str, Any]:
    return {
        **subjects(ready.clip, ready.train, ready.held_out, ready.attack),
        "poison_rate": ready.how.rate,
        "clean_label": ready.how.clean_label,
        "limit": case.limit,
        "templates": case.templates,
        "seed": case.seed,
        "tune": asdict(ready.how.tune),
        "compute": str(half_type(ready.clip.device)).removeprefix("torch."),
    }
