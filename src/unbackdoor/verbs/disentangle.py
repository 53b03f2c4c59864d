"""`disentangle`: the weight disentanglement error ξ over the plane of a clean and a trigger vector."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from unbackdoor.base import journal
from unbackdoor.base.disk import write_text
from unbackdoor.base.errors import InputError
from unbackdoor.base.manifest import run_key
from unbackdoor.clip.handle import Clip
from unbackdoor.geometry.surface import Point, Reading, Surface, Views, look
from unbackdoor.report.charts import contour_map
from unbackdoor.runs.case import Case, open_model, open_vector
from unbackdoor.runs.result import Share
from unbackdoor.runs.run import Run, finish, work_folder
from unbackdoor.runs.verb import verb
from unbackdoor.verbs.common import manifest_of
from unbackdoor.verbs.configs.geometry import DISENTANGLE, DisentangleConfig
from unbackdoor.verbs.results import MapResult
from unbackdoor.verbs.results.maps import BoxError, PlanePoint, PointError, SurfacePoint
from unbackdoor.weights.blocks import cosine
from unbackdoor.weights.files import state_hash
from unbackdoor.weights.plane import Plane
from unbackdoor.weights.vector import Vector, difference, norm


@verb(DISENTANGLE)
def disentangle(case: Case, config: DisentangleConfig, run: Run) -> MapResult:
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
    manifest = manifest_of("disentangle", settings, clip, "weights", data=images)
    manifest.hashes |= {name: state_hash(vector) for name, vector in vectors.items()}
    # What was looked at stays good on another lattice.
    apart = ("low", "high", "points", "sharp")
    key = run_key("disentangle", {k: v for k, v in settings.items() if k not in apart}, manifest.hashes)
    manifest.run = run_key("disentangle", settings, manifest.hashes)
    with work_folder(run.folder, manifest) as work:
        log = work / f"points-{key[:16]}.jsonl"
        surface.readings.update(_read(log, surface.views))
        look(
            clip,
            plane,
            task.head,
            surface,
            sharp=config.sharp,
            keep=lambda point, reading: _append(log, point, reading),
        )
        path = [] if config.alpha is None else [(1.0, 1.0), (1.0, 1.0 - config.alpha)]
        title = f"ξ, {attack.trigger.name} to {attack.name}"
        mean, interval = surface.box()
        write_text(run.folder / "map.svg", contour_map(surface.axis, surface.errors().numpy(), title, path))
        result = MapResult(
            **settings,
            box=BoxError(mean, interval, len(images)),
            looked_at=len(surface.readings),
            cosine=cosine(vectors["clean"], vectors["triggered"]),
            norms={name: norm(vector) for name, vector in vectors.items()},
            at={f"{a:g},{b:g}": _measured(surface, (a, b)) for a in (0.0, 1.0) for b in (0.0, 1.0)},
            map=str(run.folder / "map.svg"),
            seconds=round(manifest.seconds, 2),
        )
        points = tuple(SurfacePoint(*at, **vars(_measured(surface, at))) for at in sorted(surface.readings))
        finish(run.folder, manifest, replace(result, surface=points), name=MapResult.file)
    return result


def _vector(clip: Clip, given: str | Path | Clip | Vector, device: str) -> Vector:
    """A vector itself, of its file, or the difference of a model's image tower from `clip`'s."""
    if isinstance(given, dict):
        return given
    if not isinstance(given, Clip):
        path = Path(given)
        if path.suffix == ".safetensors" and path.is_file():
            vector, metadata = open_vector(path, clip)
            if metadata.get("kind") in ("trigger vector", "task vector"):
                return vector
        given = open_model(str(given), None, device)
    own, other = clip.image_parameters(), given.image_parameters()
    return difference(other, own)


def _name(given: str | Path | Clip | Vector) -> str:
    if isinstance(given, dict):
        return "a vector in memory"
    return given.reference if isinstance(given, Clip) else str(given)


def _measured(surface: Surface, point: Point) -> PlanePoint:
    error = surface.error(point)
    xi = PointError(error.value, error.interval, Share.of(error.clean), Share.of(error.triggered))
    return PlanePoint(xi, Share.of(surface.accuracy(point)), Share.of(surface.success(point)))


def _append(log: Path, point: Point, reading: Reading) -> None:
    journal.append(log, {"at": point, "clean": reading.clean.tolist(), "triggered": reading.triggered.tolist()})


@dataclass(frozen=True)
class _Point:
    """A line of the log: the answers at one point."""

    at: tuple[float, float]
    clean: tuple[int, ...]
    triggered: tuple[int, ...]


def _read(log: Path, views: Views) -> dict[Point, Reading]:
    """The points of the log.

    Raises:
        InputError: one is of other pictures.
    """
    readings: dict[Point, Reading] = {}
    for row in journal.read(log, _Point):
        if len(row.clean) != len(views.clean) or len(row.triggered) != len(views.triggered):
            raise InputError(f"{log}: holds answers to other pictures; remove it to begin anew")
        readings[row.at] = Reading(torch.tensor(row.clean), torch.tensor(row.triggered))
    return readings
