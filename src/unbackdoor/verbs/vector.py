"""`vector`: take the trigger vector of a suspect model and store it."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from unbackdoor.base.errors import InputError
from unbackdoor.base.manifest import run_key, versions
from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.data.shares import defender_rows
from unbackdoor.runs.case import Case
from unbackdoor.runs.result import plain
from unbackdoor.runs.run import Run, claim, resumable
from unbackdoor.runs.verb import verb
from unbackdoor.training.finetune import checked_lr
from unbackdoor.unlearning.vector import METHODS, TakenVector, VectorConfig, settled
from unbackdoor.unlearning.vector import trigger_vector as take
from unbackdoor.verbs.common import describe_sequence, manifest_of
from unbackdoor.verbs.configs.vector import DEFAULT_METHOD, VECTOR, VectorSettings
from unbackdoor.verbs.results import VectorResult
from unbackdoor.verbs.results.cures import VectorFacts
from unbackdoor.weights.vector import norm, save_vector

VALIDATION = 512  # images set aside for choosing α, so that `vector` and `unlearn` never share any


@verb(VECTOR)
def trigger_vector(case: Case, config: VectorSettings, run: Run) -> VectorResult:
    """Fine-tune the suspect briefly on triggered images towards the target; write the weight difference to `out`.

    `out` is a safetensors file; its metadata tells model, data, trigger, target and settings. A checkpoint lies beside
    it while the run lasts, so that a killed run continues.

    Raises:
        InputError: anything unusable in the above.
    """
    clip = case.clip()
    out = run.folder
    train = case.images(clip, "train")
    attack, task = case.attack(clip, train)
    how = vector_config(clip, config.method, samples=config.samples, epochs=config.epochs, lr=config.lr, seed=case.seed)
    forget, _ = defender_rows(len(train), how.samples, VALIDATION)
    settings = {
        "model": clip.reference,
        "data": train.spec,
        "trigger": attack.trigger.spec(),
        "target": attack.name,
        "vector": asdict(how),
        "templates": case.templates,
    }
    manifest = manifest_of("vector", settings, clip, "weights", data=train)
    noted = f"{out.name}.manifest.json"
    manifest.run = run_key("vector", settings, manifest.hashes)
    work = Work(out.with_name(f".{out.name}.work"), manifest.run)
    claim(manifest, out.parent, noted, out)
    with resumable():
        taken = take(clip, train.subset(forget), task, how, work=work)
    store(out, taken, settings, manifest.hashes["weights"], clip)
    work.remove()
    manifest.notes["loss"] = describe_sequence(taken.losses)
    manifest.write(out.parent, noted)
    return VectorResult(
        vector=str(out),
        trigger=attack.trigger.spec(),
        target=attack.name,
        data=train.spec,
        **plain(vector_facts(clip, taken, config.method, how)),
        seed=case.seed,
        seconds=round(manifest.seconds, 2),
    )


def vector_config(
    clip: Clip,
    method: str,
    *,
    samples: int | None,
    epochs: int | None,
    lr: float | None,
    seed: int,
    validation: int | None = None,
) -> VectorConfig:
    """The method's configuration with the given fields replaced.

    Raises:
        InputError: no such method.
    """
    if method not in METHODS:
        raise InputError(f"method {method!r} is none of {', '.join(METHODS)}")
    base = METHODS[method]
    checked_lr(lr)
    tune = replace(base.tune, seed=seed) if epochs is None else replace(base.tune, seed=seed, epochs=epochs, steps=0)
    samples = base.samples if samples is None else samples
    validation = base.validation if validation is None else validation
    return settled(replace(base, tune=tune, samples=samples, validation=validation), clip, lr)


def store(out: Path, taken: TakenVector, settings: dict[str, Any], suspect_hash: str, clip: Clip) -> None:
    """Write the vector with where it came from, and with what the model's own file calls its tensors."""
    flat = {k: str(v) for k, v in settings.items()}
    aliases = {name: inside for name, inside in clip.format.names.aliases.items() if inside in taken.vector}
    save_vector(out, taken.vector, {**aliases, **flat, "suspect": suspect_hash, "unbackdoor": versions()["unbackdoor"]})


def vector_facts(clip: Clip, taken: TakenVector, method: str, config: VectorConfig) -> VectorFacts:
    """Size and making of a vector, for results and reports."""
    size, whole = norm(taken.vector), norm(clip.image_parameters())
    return VectorFacts(
        method=method,
        samples=taken.samples,
        steps=taken.steps,
        lr=taken.lr,
        toward=config.toward,
        anchor=config.anchor,
        guard=config.guard,
        rank=config.rank,
        trigger_scale=(config.trigger_scale or clip.logit_scale) if config.toward == "target" else None,
        norm=size,
        relative_norm=size / whole if whole else None,
        vector_seconds=round(taken.seconds, 2),
    )


__all__ = ["DEFAULT_METHOD", "VALIDATION", "store", "trigger_vector", "vector_config", "vector_facts"]
