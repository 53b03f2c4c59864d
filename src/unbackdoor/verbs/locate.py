"""`locate`: where in a model a trigger vector sits, and which part of it does the work."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unbackdoor.base import journal
from unbackdoor.base.disk import write_text
from unbackdoor.base.errors import InputError
from unbackdoor.base.manifest import run_key
from unbackdoor.geometry.location import BlockEffect, block_effects, path
from unbackdoor.metrics.backdoor import BackdoorRates
from unbackdoor.metrics.rates import Rate
from unbackdoor.report.curve import alpha_curve
from unbackdoor.runs.case import Case, open_vector
from unbackdoor.runs.result import Rates
from unbackdoor.runs.run import Run, finish, work_folder
from unbackdoor.runs.verb import verb
from unbackdoor.verbs.common import curve_of, manifest_of
from unbackdoor.verbs.configs.geometry import LOCATE, LocateConfig
from unbackdoor.verbs.results import LocateResult
from unbackdoor.verbs.results.maps import Block, Cosines, Rank
from unbackdoor.weights.blocks import blocks, cosine, effective_rank
from unbackdoor.weights.files import state_hash
from unbackdoor.weights.vector import Vector, norm

STEPS = 8  # of the path, to α and as far again


@verb(LOCATE)
def locate(case: Case, config: LocateConfig, run: Run) -> LocateResult:
    """Share of ‖τ‖² of every block, effective rank of every matrix, CA and ASR when one block of τ is subtracted alone
    and when all but it are, CA and ASR along θ − α·τ, and cosines with other vectors.

    The model is the suspect θ; the data are images of its test split, and CA is of those with labels. Writes
    `location.json`, `path.svg` (CA and ASR along the path) and `manifest.json` into `out`.

    Returns:
        `blocks` (block, share, elements, alone, without, ranks), `path`, `cosines` (by file: whole, blocks), …

    Raises:
        InputError: anything unusable in the above.
    """
    if not math.isfinite(config.alpha):
        raise InputError(f"α is {config.alpha}; give a finite number")
    clip = case.clip()
    images = case.images(clip, "test")
    attack, task = case.attack(clip, images)
    tau, _ = open_vector(Path(config.vector), clip)
    further = {str(other): open_vector(Path(other), clip)[0] for other in config.others}
    settings: dict[str, Any] = {
        "model": clip.reference,
        "vector": str(config.vector),
        "others": list(further),
        "data": images.spec,
        "images": len(images),
        "trigger": attack.trigger.spec(),
        "target": attack.name,
        "alpha": config.alpha,
        "templates": case.templates,
        "seed": case.seed,
    }
    manifest = manifest_of("locate", settings, clip, "weights", data=images)
    manifest.hashes |= {str(name): state_hash(v) for name, v in ((config.vector, tau), *further.items())}
    manifest.run = run_key("locate", settings, manifest.hashes)
    with work_folder(run.folder, manifest) as work:
        measure = _Measured(work / f"rates-{manifest.run[:16]}.jsonl")
        effects = block_effects(clip, tau, config.alpha, images, task, measure)
        walked = path(clip, tau, [2 * config.alpha * i / STEPS for i in range(STEPS + 1)], images, task, measure)
    parts = blocks(tau)
    result = LocateResult(
        **settings,
        norm=norm(tau),
        blocks=tuple(_block(effect, parts[effect.block]) for effect in effects),
        path=curve_of(walked),
        cosines={name: _cosines(tau, v) for name, v in further.items()},
        picture=str(run.folder / "path.svg"),
        seconds=round(manifest.seconds, 2),
    )
    write_text(run.folder / "path.svg", alpha_curve({"curve": result["path"], "alpha": config.alpha}))
    finish(run.folder, manifest, result, name=LocateResult.file)
    return replace(result, location=str(run.folder / LocateResult.file))


def _block(effect: BlockEffect, part: Vector) -> Block:
    ranks = {
        name: Rank(effective_rank(t), min(t.shape[0], t[0].numel()))
        for name, t in part.items()
        if t.dim() > 1 and min(t.shape[0], t[0].numel()) > 1
    }
    elements = sum(t.numel() for t in part.values())
    return Block(effect.block, effect.share, elements, Rates.of(effect.alone), Rates.of(effect.without), ranks)


@dataclass(frozen=True)
class _Line:
    """A measurement that was kept: hits and images of CA, ASR and triggered accuracy."""

    name: str
    counts: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


class _Measured:
    """Makes measurements, or takes those that a killed run has kept in a file."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._kept = {row.name: BackdoorRates(*(Rate(*c) for c in row.counts)) for row in journal.read(log, _Line)}

    def __call__(self, name: str, make: Callable[[], BackdoorRates]) -> BackdoorRates:
        if name not in self._kept:
            self._kept[name] = rates = make()
            assert rates.asr is not None and rates.triggered_accuracy is not None
            counts = [(r.hits, r.n) for r in (rates.ca, rates.asr, rates.triggered_accuracy)]
            journal.append(self._log, {"name": name, "counts": counts})
        return self._kept[name]


def _cosines(a: Vector, b: Vector) -> Cosines:
    own, other = blocks(a), blocks(b)
    return Cosines(cosine(a, b), {name: cosine(part, other.get(name, {})) for name, part in own.items()})
