"""`scan --calibrate`: what clean models of one architecture score, so that a suspect can be compared with them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from unbackdoor.base import journal
from unbackdoor.base.errors import InputError
from unbackdoor.base.manifest import Manifest, run_key
from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.clip.preprocess import Frame
from unbackdoor.data.classnames import templates as find_templates
from unbackdoor.data.images import ImageSet
from unbackdoor.runs.case import Case, open_model
from unbackdoor.runs.run import Run, claim, resumable, weights_hash
from unbackdoor.runs.verb import verb
from unbackdoor.scan.clones import clones
from unbackdoor.scan.detection import Null, Scores, architecture, ranked
from unbackdoor.scan.examine import Examination, examine
from unbackdoor.scan.examine import settings as examine_settings
from unbackdoor.scan.inverters import inverter_names
from unbackdoor.verbs.configs.scan import CALIBRATE, CalibrateConfig
from unbackdoor.verbs.origins import OpenOrigin, open_origin
from unbackdoor.verbs.results import NullResult
from unbackdoor.verbs.scan import candidates


@verb(CALIBRATE)
def calibrate(case: Case, config: CalibrateConfig, run: Run) -> NullResult:
    """Scan clean models and write their statistics as a null for `scan`.

    A killed run goes on: each model's line is kept beside the null until it is whole. The manifest lies beside it, too.
    The data are images like those that suspects will be scanned with; `out` is the file of the null.

    Raises:
        InputError: no model, models of different architectures, or anything unusable in the above.
    """
    if not config.models:
        raise InputError("nothing to calibrate on; name at least one clean model")
    out, chosen = run.folder, tuple(config.inverters or inverter_names())
    source = None if config.origin is None else open_origin(config.origin, case.device)
    manifest = _manifest(case, config, chosen, source)
    noted = f"{out.stem}.manifest.json"
    claim(manifest, out.parent, noted, out)
    kept, work = out.with_name(f".{out.name}.part"), out.with_name(f".{out.name}.work")
    lines = _Lines(case.seed, chosen, None if source is None else source.clip, kept, work)
    rows, names = list[tuple[Scores, ...]](), list[str]()
    kind = identity = ""
    decoded: dict[Frame, ImageSet] = {}
    with resumable():
        for reference in config.models:
            model = _opened(case, reference, decoded)
            manifest.config["models"].append(model.clip.reference)
            manifest.config["data"], manifest.hashes["data"] = model.images.spec, model.images.content_hash()
            if kind and model.kind != kind:
                raise InputError(
                    f"{model.clip.reference}: another architecture than the models before; calibrate each alone"
                )
            kind = model.kind
            rests = source.record.weights if source else None
            identity = examine_settings(len(model.images), chosen, rests, len(model.names))
            if source is not None:
                source.check(model.clip)
            identities = (weights_hash(model.clip), manifest.hashes["data"], list(model.names), identity, case.seed)
            for name, make in _with_copies(model, config.copies, case.seed, Work(work)):
                line = lines.made(model, run_key(*identities, name), make)
                manifest.hashes[name] = line.weights
                rows.append(tuple(ranked(scores) for scores in line.statistics))
                names.append(name)
    Null(kind, identity, chosen, tuple(rows), tuple(names), source.record if source else None).save(out)
    manifest.write(out.parent, noted)
    kept.unlink(missing_ok=True)
    return NullResult(
        null=str(out),
        clean_models=len(rows),
        smallest_p_value=1 / (len(rows) + 1),
        inverters=chosen,
        seed=case.seed,
        seconds=round(manifest.seconds, 2),
    )


def _manifest(case: Case, config: CalibrateConfig, chosen: tuple[str, ...], source: OpenOrigin | None) -> Manifest:
    settings = {
        "copies": config.copies,
        "inverters": list(chosen),
        "limit": case.limit,
        "templates": case.templates,
        "seed": case.seed,
    }
    manifest = Manifest("calibrate", {**settings, "models": [], "data": None})
    if source is not None:
        manifest.hashes["origin"] = source.record.weights
    references = [m if isinstance(m, str) else m.reference for m in config.models]
    data = case.source()
    spec = data if isinstance(data, str) else data.spec
    manifest.run = run_key("calibrate", settings, references, spec, case.classes, manifest.hashes)
    return manifest


@dataclass(frozen=True)
class _Model:
    """A clean model that is open, with what it is examined on.

    Args:
        names: candidate classes.
        head: zero-shot head over them.
        kind: fingerprint of the architecture.
    """

    clip: Clip
    images: ImageSet
    names: tuple[str, ...]
    head: Tensor
    kind: str


def _opened(case: Case, reference: str | Clip, decoded: dict[Frame, ImageSet]) -> _Model:
    """Open a model; images are decoded once for all that see them alike."""
    clip = open_model(reference, case.checkpoint, case.device)
    if clip.frame not in decoded:
        decoded[clip.frame] = case.pictures(clip, case.limit)
    images = decoded[clip.frame]
    names, _ = candidates(images)
    head = clip.zero_shot_head(names, find_templates(case.templates))
    return _Model(clip, images, names, head, architecture(clip.state()))


def _with_copies(model: _Model, copies: int, seed: int, work: Work) -> Iterator[tuple[str, Callable[[], Clip]]]:
    yield model.clip.reference, lambda: model.clip
    yield from clones(model.clip, model.images, model.head, copies, seed, work)


@dataclass(frozen=True)
class _Done:
    """A line of what is kept: one model's statistics."""

    key: str
    statistics: list[dict[str, float]]
    weights: str


class _Lines:
    """Makes a model's line, or takes the one that a killed run has kept."""

    def __init__(self, seed: int, inverters: tuple[str, ...], origin: Clip | None, kept: Path, work: Path) -> None:
        self._seed, self._inverters, self._origin = seed, inverters, origin
        self._file, self._work = kept, work
        self._kept = {row.key: row for row in journal.read(kept, _Done)}

    def made(self, model: _Model, key: str, make: Callable[[], Clip]) -> _Done:
        """The line of what `make` makes of a model."""
        if key not in self._kept:
            clip = make()
            examined = examine(
                clip,
                model.images,
                model.head,
                model.names,
                Examination(self._inverters, self._seed),
                origin=self._origin,
                work=Work(self._work, key),
            )
            self._kept[key] = _Done(key, examined.statistics(), weights_hash(clip))
            journal.append(self._file, asdict(self._kept[key]))
            shutil.rmtree(self._work, ignore_errors=True)
        return self._kept[key]
