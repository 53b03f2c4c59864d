"""`unlearn`: subtract the trigger vector, α chosen on held-out images; save the clean model as it came in."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from unbackdoor.base.manifest import Manifest, run_key
from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.data.shares import defender_rows
from unbackdoor.evaluation import Task
from unbackdoor.metrics.backdoor import BackdoorRates
from unbackdoor.report import write_report
from unbackdoor.runs.case import Case, check_labels, open_vector
from unbackdoor.runs.result import RateTable, plain
from unbackdoor.runs.run import Run, finish, weights_hash, work_folder
from unbackdoor.runs.verb import verb
from unbackdoor.triggers.attack import Attack
from unbackdoor.unlearning.alpha import AlphaConfig, AlphaSearch
from unbackdoor.unlearning.known import Cured, Plan, cure_known
from unbackdoor.unlearning.vector import TakenVector
from unbackdoor.verbs.common import (
    class_lines,
    curve_of,
    describe_sequence,
    manifest_of,
    measured,
    retention,
    subjects,
    when_rows,
)
from unbackdoor.verbs.configs.unlearn import UNLEARN, UnlearnConfig
from unbackdoor.verbs.gallery import Gallery
from unbackdoor.verbs.results import CureResult
from unbackdoor.verbs.results.cures import VectorFacts
from unbackdoor.verbs.vector import store, vector_config, vector_facts


@verb(UNLEARN)
def unlearn(case: Case, config: UnlearnConfig, run: Run) -> CureResult:
    """Cure a model whose trigger and target are known, and tell the story.

    The forget set (triggered images) and the validation images (α) are disjoint parts of the training split, which
    needs labels only where α has validation images; the reported rates come from the test split, which plays no part in
    the cure. A handle is changed in place. Writes `model/`, `vector.safetensors`, `result.json`, `metrics.jsonl`,
    `manifest.json` and `report.html` into `out`.

    Raises:
        InputError: anything unusable in the above.
    """
    ready = _ready(case, config)
    clip, train, held_out = ready.clip, ready.train, ready.held_out
    settings = _settings(case, config, ready)
    manifest = manifest_of(
        run.verb or "unlearn", settings, clip, "weights_before", train_data=train, test_data=held_out
    )
    manifest.notes["skipped"] = train.skipped + held_out.skipped
    manifest.run = run_key("unlearn", settings, manifest.hashes)
    gallery = Gallery(held_out, ready.task)
    with work_folder(run.folder, manifest) as work:
        before = measured(clip, held_out, ready.task, work, "before", manifest.run)
        gallery.look(clip, "suspect")
        cure, facts = _cure(config, run, ready, manifest, work)
        search = cure.search
        gallery.walk(clip, cure.vector, search.alpha, (point.alpha for point in search.curve))
        clip.round_as_stored()
        after = measured(clip, held_out, ready.task, work, "after", manifest.run)
        gallery.look(clip, "cured")
        clip.save(run.folder / "model")
        manifest.hashes["weights_after"] = weights_hash(clip)
        result = _result(run, ready, search, facts, (before, after), manifest)
        curve = [{"when": "search", **plain(point)} for point in result.curve]
        page = partial(write_report, run.folder / "report.html", examples=gallery.examples(), places=gallery.places())
        finish(run.folder, manifest, result, metrics=[*when_rows(before, after), *curve], report=page)
    return result


@dataclass(frozen=True)
class _Ready:
    """What a cure works with.

    Args:
        train, held_out: images to cure with and to measure on.
        forget, plan: what the vector is taken from, and how.
        validation: images with labels for choosing α.
    """

    clip: Clip
    train: ImageSet
    held_out: ImageSet
    attack: Attack
    task: Task
    forget: ImageSet
    plan: Plan
    validation: int


def _ready(case: Case, config: UnlearnConfig) -> _Ready:
    """Open everything.

    Raises:
        InputError: anything unusable in it.
    """
    fixed = None if config.alpha == "auto" else float(config.alpha)
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
    if how.validation or how.toward == "target":
        check_labels(train, "choosing α" if how.validation else "method " + config.method)
    rows, others = defender_rows(len(train), how.samples, how.validation)
    forget, choosing = train.subset(rows), train.subset(others)
    plan = replace(Plan.of(clip, forget, choosing, task.head, how, config.alpha_config or AlphaConfig()), alpha=fixed)
    return _Ready(clip, train, held_out, attack, task, forget, plan, len(others))


def _settings(case: Case, config: UnlearnConfig, ready: _Ready) -> dict[str, Any]:
    return {
        **subjects(ready.clip, ready.train, ready.held_out, ready.attack),
        "vector": str(config.vector) if config.vector else asdict(ready.plan.config),
        "alpha": config.alpha,
        "rule": asdict(ready.plan.rule),
        "validation": ready.validation,
        "templates": case.templates,
        "seed": case.seed,
    }


def _cure(config: UnlearnConfig, run: Run, ready: _Ready, manifest: Manifest, work: Path) -> tuple[Cured, VectorFacts]:
    """Subtract the vector, and keep it; what was subtracted, and where it came from."""
    clip, facts = ready.clip, VectorFacts()
    tau = None
    if config.vector is not None:
        tau, origin = open_vector(Path(config.vector), clip)
        facts = VectorFacts(file=str(config.vector), origin=origin.get("suspect"))

    def keep(taken: TakenVector) -> None:
        nonlocal facts
        facts = vector_facts(clip, taken, config.method, ready.plan.config)
        store(run.folder / "vector.safetensors", taken, manifest.config, manifest.hashes["weights_before"], clip)
        manifest.notes["loss"] = describe_sequence(taken.losses)

    cure = cure_known(clip, ready.forget, ready.task, ready.plan, vector=tau, taken=keep, work=Work(work, manifest.run))
    return cure, replace(facts, attempts=cure.attempts if cure.taken is not None else None)


def _result(
    run: Run,
    ready: _Ready,
    search: AlphaSearch,
    facts: VectorFacts,
    rates: tuple[BackdoorRates, BackdoorRates],
    manifest: Manifest,
) -> CureResult:
    """What is told, of the rates before and after."""
    (before, after), rule, how = rates, ready.plan.rule, ready.plan.config
    kept = "clean accuracy" if how.validation else "answers"
    extra = dict(run.extra)
    return CureResult(
        verb=manifest.verb,
        model=str(run.folder / "model"),
        model_reference=ready.clip.reference,
        data=ready.train.spec,
        test=ready.held_out.spec,
        trigger=ready.attack.trigger.spec(),
        target=ready.attack.name,
        alpha=search.alpha,
        chosen=search.satisfied,
        labels_used=bool(how.validation),
        rule=rule.sentence(kept) if ready.plan.alpha is None else "α given by the user",
        message=search.message,
        nothing_to_remove=search.nothing,
        retention=retention(before, after),
        before=RateTable.of(before),
        after=RateTable.of(after),
        by_class=class_lines(ready.held_out.classes, before, after),
        curve=curve_of(search.curve),
        tolerance=rule.tolerance,
        ca_floor=rule.floor * search.curve[0].ca.value if search.curve else None,
        vector=facts,
        seed=manifest.config["seed"],
        original=extra.pop("original", None),
        suspect=extra.pop("suspect", None),
        extra=extra,
        report=str(run.folder / "report.html"),
        seconds=round(manifest.seconds, 2),
    )
