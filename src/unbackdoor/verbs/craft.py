"""`craft`: optimise BadCLIP's patch against a clean model. For research on models you own."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from unbackdoor.data.classnames import templates as find_templates
from unbackdoor.data.poisoning import target_index
from unbackdoor.data.shares import attacker_rows
from unbackdoor.disk import atomic, write_text
from unbackdoor.errors import InputError
from unbackdoor.evaluation import Task, evaluate_kept
from unbackdoor.manifest import Manifest, run_key, write_json
from unbackdoor.runs.case import Case, check_labels, require_classes
from unbackdoor.runs.run import Run, weights_hash, work_folder
from unbackdoor.runs.verb import verb
from unbackdoor.training.badclip import BadClipConfig, craft_patch, initial_patch
from unbackdoor.triggers.attack import Attack
from unbackdoor.triggers.badclip import BadClip
from unbackdoor.verbs.common import rates_dict
from unbackdoor.verbs.configs.planting import CRAFT, CraftConfig


@verb(CRAFT)
def craft(case: Case, config: CraftConfig, run: Run) -> dict[str, Any]:
    """Optimise a `badclip` patch until the unchanged model takes patched images for the target.

    Uses the training images that `poison` uses, so that `poison --trigger @out/trigger.txt` goes on from here. Measures
    the patch's ASR on the test split with the patch that crafting starts from (`before`) and the crafted one (`after`),
    and writes `patch.png`, `trigger.txt` (the whole spec), `result.json` and `manifest.json`.

    The data are labelled training images; the trigger is `badclip` with size and position, of which a patch that it
    already holds is replaced.

    Raises:
        InputError: another trigger than `badclip`, or anything unusable in the above.
    """
    clip = case.clip()
    train = case.images(clip, "train")
    check_labels(train, "crafting a patch")
    index = target_index(require_classes(train), case.target or "")
    blank = case.opened_trigger()
    if not isinstance(blank, BadClip):
        raise InputError(f"trigger {blank.name} needs no crafting; only badclip does")
    blank = replace(blank, pixels="")
    held_out = case.held_out(clip, train)
    how = BadClipConfig(seed=case.seed)
    how = how if config.steps is None else replace(how, steps=config.steps)
    settings = {
        "model": clip.reference,
        "data": train.spec,
        "test": held_out.spec,
        "trigger": blank.spec(),
        "target": train.classes[index],
        "craft": asdict(how),
        "limit": case.limit,
        "templates": case.templates,
    }
    manifest = Manifest("craft", settings)
    manifest.hashes["weights"] = weights_hash(clip)
    manifest.hashes["train_data"] = train.content_hash()
    manifest.hashes["test_data"] = held_out.content_hash()
    head = case.head(clip, train)
    key = manifest.run = run_key("craft", settings, manifest.hashes)
    with work_folder(run.folder, manifest) as work:
        start = Task(head, Attack(initial_patch(blank, case.seed), index, train.classes[index]))
        before = evaluate_kept(clip, held_out, start, work / f"before-{key[:16]}.json", label="before")
        made = craft_patch(
            clip,
            train.subset(attacker_rows(len(train))),
            blank,
            train.classes[index],
            how,
            templates=find_templates(case.templates),
            checkpoint=work / "craft.checkpoint",
            run_key=key,
        )
        kept = work / f"after-{key[:16]}.json"
        ready = replace(start, attack=Attack(made, index, train.classes[index]))
        after = evaluate_kept(clip, held_out, ready, kept, label="after")
        write_picture(run.folder / "patch.png", made.patch())
        write_text(run.folder / "trigger.txt", made.spec() + "\n")
        result = {
            "verb": "craft",
            "model_reference": clip.reference,
            "data": train.spec,
            "test": held_out.spec,
            "trigger": made.spec(),
            "target": train.classes[index],
            "trigger_file": str(run.folder / "trigger.txt"),
            "steps": config.steps,
            "seed": case.seed,
            "before": rates_dict(before),
            "after": rates_dict(after),
            "seconds": round(manifest.seconds, 2),
        }
        manifest.write(run.folder)
        write_json(run.folder / "result.json", result)
    return result


def write_picture(path: Path, picture: Tensor) -> None:
    """Atomically write a picture (3, H, W) in [0, 1] as PNG."""
    from PIL import Image

    pixels = (picture * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    atomic(path, lambda temporary: Image.fromarray(pixels).save(temporary, format="PNG"))
