"""`craft`: optimise BadCLIP's patch against a clean model. For research on models you own."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from torch import Tensor

from unbackdoor.attacks.badclip import BadClipConfig, craft_patch, initial_patch
from unbackdoor.base.disk import atomic, write_text
from unbackdoor.base.errors import InputError
from unbackdoor.base.manifest import run_key
from unbackdoor.base.work import Work
from unbackdoor.data.classnames import templates as find_templates
from unbackdoor.data.names import target_index
from unbackdoor.data.shares import attacker_rows
from unbackdoor.evaluation import Task
from unbackdoor.runs.case import Case, check_labels, require_classes
from unbackdoor.runs.result import RateTable
from unbackdoor.runs.run import Run, finish, work_folder
from unbackdoor.runs.verb import verb
from unbackdoor.triggers.attack import Attack
from unbackdoor.triggers.badclip import BadClip
from unbackdoor.verbs.common import manifest_of, measured
from unbackdoor.verbs.configs.planting import CRAFT, CraftConfig
from unbackdoor.verbs.results import CraftResult


@verb(CRAFT)
def craft(case: Case, config: CraftConfig, run: Run) -> CraftResult:
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
    blank = _blank(case)
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
    manifest = manifest_of("craft", settings, clip, "weights", train_data=train, test_data=held_out)
    head = case.head(clip, train)
    key = manifest.run = run_key("craft", settings, manifest.hashes)
    with work_folder(run.folder, manifest) as work:
        start = Task(head, Attack(initial_patch(blank, case.seed), index, train.classes[index]))
        before = measured(clip, held_out, start, work, "before", key)
        made = craft_patch(
            clip,
            train.subset(attacker_rows(len(train))),
            blank,
            train.classes[index],
            how,
            templates=find_templates(case.templates),
            work=Work(work, key),
        )
        ready = replace(start, attack=Attack(made, index, train.classes[index]))
        after = measured(clip, held_out, ready, work, "after", key)
        write_picture(run.folder / "patch.png", made.patch())
        write_text(run.folder / "trigger.txt", made.spec() + "\n")
        result = CraftResult(
            model_reference=clip.reference,
            data=train.spec,
            test=held_out.spec,
            trigger=made.spec(),
            target=train.classes[index],
            trigger_file=str(run.folder / "trigger.txt"),
            steps=config.steps,
            seed=case.seed,
            before=RateTable.of(before),
            after=RateTable.of(after),
            seconds=round(manifest.seconds, 2),
        )
        finish(run.folder, manifest, result)
    return result


def _blank(case: Case) -> BadClip:
    """The trigger, the patch that it may hold left out.

    Raises:
        InputError: it is of another kind.
    """
    trigger = case.opened_trigger()
    if not isinstance(trigger, BadClip):
        raise InputError(f"trigger {trigger.name} needs no crafting; only badclip does")
    return replace(trigger, pixels="")


def write_picture(path: Path, picture: Tensor) -> None:
    """Atomically write a picture (3, H, W) in [0, 1] as PNG."""
    from PIL import Image

    pixels = (picture * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    atomic(path, lambda temporary: Image.fromarray(pixels).save(temporary, format="PNG"))
