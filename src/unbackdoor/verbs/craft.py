"""`craft`: optimise BadCLIP's patch against a clean model. For research on models you own."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from unbackdoor.clip.handle import Clip
from unbackdoor.data.classnames import templates as find_templates
from unbackdoor.data.images import ImageSet
from unbackdoor.data.poisoning import target_index
from unbackdoor.data.shares import attacker_rows
from unbackdoor.disk import atomic, write_text
from unbackdoor.errors import InputError
from unbackdoor.evaluation import Task, evaluate_kept
from unbackdoor.manifest import Manifest, run_key, write_json
from unbackdoor.training.badclip import BadClipConfig, craft_patch, initial_patch
from unbackdoor.triggers.attack import Attack
from unbackdoor.triggers.badclip import BadClip
from unbackdoor.triggers.base import Trigger
from unbackdoor.verbs.common import (
    check_labels,
    open_data,
    open_head,
    open_model,
    open_test,
    open_trigger,
    rates_dict,
    require_classes,
    weights_hash,
    work_folder,
)


def craft(
    *,
    model: str | Clip,
    data: str | ImageSet,
    target: str,
    out: str | Path,
    trigger: str | Trigger = "badclip",
    steps: int | None = None,
    limit: int | None = None,
    test: str | ImageSet | None = None,
    test_limit: int | None = None,
    checkpoint: Path | None = None,
    classes: str | None = None,
    templates: str | None = None,
    device: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """Optimise a `badclip` patch until the unchanged model takes patched images for the target.

    Uses the training images that `poison` uses, so that `poison --trigger @out/trigger.txt` goes on from here. Measures
    the patch's ASR on the test split with the patch that crafting starts from (`before`) and the crafted one (`after`),
    and writes `patch.png`, `trigger.txt` (the whole spec), `result.json` and `manifest.json`.

    Args:
        model: a model reference or a handle; its weights do not change.
        data: a source spec or decoded, labelled training images; `test` is needed with the latter.
        target: class name that patched images shall get.
        trigger: `badclip` with size and position; a patch that it already holds is replaced.
        steps: optimiser steps; None takes the default of `BadClipConfig`.
        limit, test_limit: use at most so many images.

    Raises:
        InputError: another trigger than `badclip`, or anything unusable in the above.
    """
    out = Path(out)
    clip = open_model(model, checkpoint, device)
    train = open_data(data, clip, "train", limit=limit, seed=seed, classes=classes)
    check_labels(train, "crafting a patch")
    index = target_index(require_classes(train), target)
    blank = open_trigger(trigger)
    if not isinstance(blank, BadClip):
        raise InputError(f"trigger {blank.name} needs no crafting; only badclip does")
    blank = replace(blank, pixels="")
    held_out = open_test(test, data, clip, train, limit=test_limit, classes=classes)
    config = BadClipConfig(seed=seed)
    config = config if steps is None else replace(config, steps=steps)
    settings = {
        "model": clip.reference,
        "data": train.spec,
        "test": held_out.spec,
        "trigger": blank.spec(),
        "target": train.classes[index],
        "craft": asdict(config),
        "limit": limit,
        "templates": templates,
    }
    manifest = Manifest("craft", settings)
    manifest.hashes["weights"] = weights_hash(clip)
    manifest.hashes["train_data"] = train.content_hash()
    manifest.hashes["test_data"] = held_out.content_hash()
    head = open_head(clip, train, templates)
    key = manifest.run = run_key("craft", settings, manifest.hashes)
    with work_folder(out, manifest) as work:
        start = Task(head, Attack(initial_patch(blank, seed), index, train.classes[index]))
        before = evaluate_kept(clip, held_out, start, work / f"before-{key[:16]}.json", label="before")
        made = craft_patch(
            clip,
            train.subset(attacker_rows(len(train))),
            blank,
            target,
            config,
            templates=find_templates(templates),
            checkpoint=work / "craft.checkpoint",
            run_key=key,
        )
        kept = work / f"after-{key[:16]}.json"
        ready = replace(start, attack=Attack(made, index, train.classes[index]))
        after = evaluate_kept(clip, held_out, ready, kept, label="after")
        write_picture(out / "patch.png", made.patch())
        write_text(out / "trigger.txt", made.spec() + "\n")
        result = {
            "verb": "craft",
            "model_reference": clip.reference,
            "data": train.spec,
            "test": held_out.spec,
            "trigger": made.spec(),
            "target": train.classes[index],
            "trigger_file": str(out / "trigger.txt"),
            "steps": config.steps,
            "seed": seed,
            "before": rates_dict(before),
            "after": rates_dict(after),
            "seconds": round(manifest.seconds, 2),
        }
        manifest.write(out)
        write_json(out / "result.json", result)
    return result


def write_picture(path: Path, picture: Tensor) -> None:
    """Atomically write a picture (3, H, W) in [0, 1] as PNG."""
    from PIL import Image

    pixels = (picture * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    atomic(path, lambda temporary: Image.fromarray(pixels).save(temporary, format="PNG"))
