"""`vector`: take the trigger vector of a suspect model and store it."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.defenses.tbar import Known, TakenVector, VectorConfig
from unbackdoor.defenses.tbar import trigger_vector as take
from unbackdoor.manifest import Manifest, versions, write_json
from unbackdoor.triggers.base import Trigger
from unbackdoor.verbs.common import (
    SMALL_VECTOR_LR,
    Attack,
    defender_rows,
    describe_sequence,
    open_attack,
    open_data,
    open_model,
    run_key,
    weights_hash,
    with_lr,
)
from unbackdoor.weights.vector import norm, save_vector

VALIDATION = 512  # images set aside for choosing α, so that `vector` and `unlearn` never share any


def trigger_vector(
    *,
    model: str | Clip,
    data: str | ImageSet,
    trigger: str | Trigger,
    target: str,
    out: str | Path,
    samples: int = 256,
    epochs: int | None = None,
    lr: float | None = None,
    anchor: float | None = None,
    checkpoint: Path | None = None,
    classes: str | None = None,
    templates: str | None = None,
    device: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """Fine-tune the suspect briefly on triggered images towards the target; write the weight difference to `out`.

    Args:
        samples: triggered images; they come from the end of the training split that `poison` leaves alone.
        epochs, lr, anchor: of the brief fine-tuning, see `VectorConfig`; None takes its defaults.
        out: safetensors file; its metadata tells model, data, trigger, target and settings. A checkpoint lies
            beside it while the run lasts, so that a killed run continues.

    Raises:
        InputError: anything unusable in the above.
    """
    out = Path(out)
    clip = open_model(model, checkpoint, device)
    train = open_data(data, clip, "train", seed=seed, classes=classes)
    attack = open_attack(clip, train, trigger, target, templates)
    config = vector_config(clip, samples=samples, epochs=epochs, lr=lr, anchor=anchor, seed=seed)
    forget, _ = defender_rows(len(train), samples, VALIDATION)
    settings = {
        "model": clip.reference,
        "data": train.spec,
        "trigger": attack.trigger.spec(),
        "target": attack.target_name,
        "vector": asdict(config),
        "templates": templates,
    }
    manifest = Manifest("vector", settings)
    manifest.hashes["weights"] = weights_hash(clip)
    manifest.hashes["data"] = train.content_hash()
    partial = out.with_name(f".{out.name}.checkpoint")
    taken = take(
        clip,
        Known(train.subset(forget), attack.trigger, attack.target, attack.head),
        config,
        checkpoint=partial,
        run_key=run_key("vector", settings, manifest.hashes),
    )
    store(out, taken, settings, manifest.hashes["weights"])
    partial.unlink(missing_ok=True)
    manifest.notes["loss"] = describe_sequence(taken.losses)
    write_json(out.with_name(f"{out.name}.manifest.json"), manifest.as_dict())
    return {
        "verb": "vector",
        "vector": str(out),
        "trigger": attack.trigger.spec(),
        "target": attack.target_name,
        "data": train.spec,
        **vector_facts(clip, taken, config),
        "seed": seed,
        "seconds": round(manifest.seconds, 2),
    }


def vector_config(
    clip: Clip, *, samples: int, epochs: int | None, lr: float | None, anchor: float | None, seed: int
) -> VectorConfig:
    """The default configuration with the given fields replaced."""
    base = VectorConfig(samples=samples)
    tune = with_lr(replace(base.tune, seed=seed, epochs=epochs or base.tune.epochs), clip, lr, SMALL_VECTOR_LR)
    return replace(base, tune=tune, anchor=base.anchor if anchor is None else anchor)


def store(out: Path, taken: TakenVector, settings: dict[str, Any], suspect_hash: str) -> None:
    """Write the vector with where it came from."""
    flat = {k: str(v) for k, v in settings.items()}
    save_vector(out, taken.vector, {**flat, "suspect": suspect_hash, "unbackdoor": versions()["unbackdoor"]})


def vector_facts(clip: Clip, taken: TakenVector, config: VectorConfig) -> dict[str, Any]:
    """Size and making of a vector, for results and reports."""
    size, whole = norm(taken.vector), norm(clip.image_parameters())
    return {
        "samples": taken.samples,
        "steps": taken.steps,
        "lr": config.tune.lr,
        "anchor": config.anchor,
        "norm": size,
        "relative_norm": size / whole if whole else None,
        "vector_seconds": round(taken.seconds, 2),
    }


__all__ = ["VALIDATION", "Attack", "store", "trigger_vector", "vector_config", "vector_facts"]
