"""`disentangle`: the weight disentanglement error ξ over the plane of a clean and a trigger vector."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unbackdoor import journal
from unbackdoor.clip.handle import Clip
from unbackdoor.disk import write_text
from unbackdoor.errors import InputError
from unbackdoor.geometry.surface import Point, Seen, Surface, Views, look
from unbackdoor.manifest import Manifest, run_key, write_json
from unbackdoor.report.contours import contour_map
from unbackdoor.runs.case import Case, open_model, open_vector
from unbackdoor.runs.run import Run, weights_hash, work_folder
from unbackdoor.runs.verb import verb
from unbackdoor.verbs.configs.geometry import DISENTANGLE, DisentangleConfig
from unbackdoor.weights.blocks import cosine
from unbackdoor.weights.files import state_hash
from unbackdoor.weights.plane import Plane
from unbackdoor.weights.vector import Vector, difference, norm


@verb(DISENTANGLE)
def disentangle(case: Case, config: DisentangleConfig, run: Run) -> dict[str, Any]:
    """Map ξ(α_c, α_t) at θ_0 + α_c·τ_c + α_t·τ_t (`unbackdoor.metrics.disentanglement`), with CA and ASR all over it.

    The model is θ_0, from which both vectors start; the data are images of its test split, clean and triggered, but
    those of the target's class, of which none is triggered. Writes `surface.json`, `map.svg` and `manifest.json` into
    `out`. Points are kept while the run lasts, so that a killed run goes on.

    Returns:
        `box` (mean ξ over [0, 1]² and its 95% interval over images), `points` that were looked at, `cosine` of the
        vectors, `norms`, `at` (ξ, CA and ASR at the corners of the unit box), `map`, `seconds`, …

    Raises:
        InputError: anything unusable in the above.
    """
    clip = case.clip()
    images = case.images(clip, "test")
    attack, task = case.attack(clip, images)
    vectors = {
        name: _vector(clip, given, case.device)
        for name, given in (("clean", config.clean), ("triggered", config.triggered))
    }
    plane = Plane(clip.state(), vectors["clean"], vectors["triggered"])
    surface = Surface(
        config.low, config.high, config.points, Views.of(images, attack.trigger, attack.target, clip.device)
    )
    settings: dict[str, Any] = {
        "model": clip.reference,
        "clean": _name(config.clean),
        "triggered": _name(config.triggered),
        "data": images.spec,
        "images": len(images),
        "trigger": attack.trigger.spec(),
        "target": attack.name,
        "low": config.low,
        "high": config.high,
        "points": config.points,
        "sharp": config.sharp,
        "templates": case.templates,
        "seed": case.seed,
    }
    manifest = Manifest("disentangle", settings)
    manifest.hashes["weights"] = weights_hash(clip)
    manifest.hashes["data"] = images.content_hash()
    manifest.hashes |= {name: state_hash(vector) for name, vector in vectors.items()}
    # What was looked at stays good on another lattice.
    apart = ("low", "high", "points", "sharp")
    key = run_key("disentangle", {k: v for k, v in settings.items() if k not in apart}, manifest.hashes)
    manifest.run = run_key("disentangle", settings, manifest.hashes)
    with work_folder(run.folder, manifest) as work:
        log = work / f"points-{key[:16]}.jsonl"
        surface.seen.update(_read(log, surface.views))
        look(clip, plane, task.head, surface, sharp=config.sharp, keep=lambda point, seen: _append(log, point, seen))
        mean, interval = surface.box()
        map_file = run.folder / "map.svg"
        path = [] if config.alpha is None else [(1.0, 1.0), (1.0, 1.0 - config.alpha)]
        title = f"ξ, {attack.trigger.name} to {attack.name}"
        write_text(map_file, contour_map(surface.axis, surface.errors().numpy(), title, path))
        result: dict[str, Any] = {
            "verb": "disentangle",
            **settings,
            "box": {"value": mean, "interval": list(interval), "n": len(images)},
            "looked_at": len(surface.seen),
            "cosine": cosine(vectors["clean"], vectors["triggered"]),
            "norms": {name: norm(vector) for name, vector in vectors.items()},
            "at": {f"{a:g},{b:g}": _told(surface, (a, b)) for a in (0.0, 1.0) for b in (0.0, 1.0)},
            "map": str(map_file),
            "seconds": round(manifest.seconds, 2),
        }
        manifest.write(run.folder)
        every = [{"alpha_clean": a, "alpha_trigger": b, **_told(surface, (a, b))} for a, b in sorted(surface.seen)]
        write_json(run.folder / "surface.json", {**result, "surface": every})
    return result


def _vector(clip: Clip, given: str | Path | Clip | Vector, device: str) -> Vector:
    """A vector itself, of its file, or the difference of a model's image tower from `clip`'s."""
    if isinstance(given, dict):
        return given
    if not isinstance(given, Clip):
        path = Path(given)
        if path.suffix == ".safetensors" and path.is_file():
            vector, told = open_vector(path, clip)
            if told.get("kind") in ("trigger vector", "task vector"):
                return vector
        given = open_model(str(given), None, device)
    own, other = clip.image_parameters(), given.image_parameters()
    return difference(other, own)


def _name(given: str | Path | Clip | Vector) -> str:
    if isinstance(given, dict):
        return "a vector in memory"
    return given.reference if isinstance(given, Clip) else str(given)


def _told(surface: Surface, point: Point) -> dict[str, Any]:
    return {
        "xi": surface.error(point).as_dict(),
        "ca": surface.accuracy(point).as_dict(),
        "asr": surface.success(point).as_dict(),
    }


def _append(log: Path, point: Point, seen: Seen) -> None:
    journal.append(log, {"at": point, "clean": seen.clean.tolist(), "triggered": seen.triggered.tolist()})


@dataclass(frozen=True)
class _Point:
    """A line of the log: the answers at one point."""

    at: tuple[float, float]
    clean: tuple[int, ...]
    triggered: tuple[int, ...]


def _read(log: Path, views: Views) -> dict[Point, Seen]:
    """The points of the log.

    Raises:
        InputError: one is of other pictures.
    """
    found: dict[Point, Seen] = {}
    for row in journal.read(log, _Point):
        if len(row.clean) != len(views.clean) or len(row.triggered) != len(views.triggered):
            raise InputError(f"{log}: holds answers to other pictures; remove it to begin anew")
        found[row.at] = Seen(torch.tensor(row.clean), torch.tensor(row.triggered))
    return found
