"""`scan --calibrate`: what clean models of one architecture score, so that a suspect can be compared with them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unbackdoor import journal
from unbackdoor.clip.handle import Clip
from unbackdoor.clip.preprocess import Frame
from unbackdoor.data.classnames import templates as find_templates
from unbackdoor.data.images import ImageSet
from unbackdoor.errors import InputError
from unbackdoor.inversion import inverter_names
from unbackdoor.inversion.clones import clones
from unbackdoor.inversion.detection import Null, architecture, ranked
from unbackdoor.inversion.examine import examine
from unbackdoor.inversion.examine import settings as examine_settings
from unbackdoor.manifest import Manifest, run_key
from unbackdoor.runs.case import Case, open_model
from unbackdoor.runs.run import Run, claim, resumable, weights_hash
from unbackdoor.runs.verb import verb
from unbackdoor.verbs.configs.scan import CALIBRATE, CalibrateConfig
from unbackdoor.verbs.origins import open_origin
from unbackdoor.verbs.scan import candidates
from unbackdoor.work import Work


@verb(CALIBRATE)
def calibrate(case: Case, config: CalibrateConfig, run: Run) -> dict[str, Any]:
    """Scan clean models and write their statistics as a null for `scan`.

    A killed run goes on: each model's line is kept beside the null until it is whole. The manifest lies beside it, too.
    The data are images like those that suspects will be scanned with; `out` is the file of the null.

    Raises:
        InputError: no model, models of different architectures, or anything unusable in the above.
    """
    if not config.models:
        raise InputError("nothing to calibrate on; name at least one clean model")
    out = run.folder
    chosen = tuple(config.inverters or inverter_names())
    settings = {
        "copies": config.copies,
        "inverters": list(chosen),
        "limit": case.limit,
        "templates": case.templates,
        "seed": case.seed,
    }
    manifest = Manifest("calibrate", {**settings, "models": [], "data": None})
    source = None if config.origin is None else open_origin(config.origin, case.device)
    clean, rests = (source.clip, source.told) if source else (None, None)
    if rests is not None:
        manifest.hashes["origin"] = rests.weights
    references = [m if isinstance(m, str) else m.reference for m in config.models]
    source_of = case.source()
    spec = source_of if isinstance(source_of, str) else source_of.spec
    manifest.run = run_key("calibrate", settings, references, spec, case.classes, manifest.hashes)
    noted = f"{out.stem}.manifest.json"
    claim(manifest, out.parent, noted, out)
    kept = out.with_name(f".{out.name}.part")
    done = {row.key: row for row in journal.read(kept, _Done)}
    work = out.with_name(f".{out.name}.work")
    rows, told, kind, identity = [], [], "", ""
    decoded: dict[Frame, ImageSet] = {}
    with resumable():
        for reference in config.models:
            base = open_model(reference, case.checkpoint, case.device)
            if base.frame not in decoded:
                decoded[base.frame] = case.pictures(base, case.limit)
            images = decoded[base.frame]
            names, vocabulary = candidates(images)
            head = base.zero_shot_head(names, find_templates(case.templates))
            manifest.config["models"].append(base.reference)
            manifest.config["data"], manifest.hashes["data"] = images.spec, images.content_hash()
            own, identity = (
                architecture(base.state()),
                examine_settings(len(images), chosen, rests.weights if rests else None),
            )
            if kind and own != kind:
                raise InputError(f"{base.reference}: another architecture than the models before; calibrate each alone")
            kind = own
            if source is not None:
                source.check(base)
            identities = (weights_hash(base), manifest.hashes["data"], list(names), identity, case.seed)
            for said, make in _with_copies(base, images, head, config.copies, case.seed, work / "clone.checkpoint"):
                key = run_key(*identities, said)
                if key not in done:
                    clip = make()
                    examined = examine(
                        clip,
                        images,
                        head,
                        names,
                        seed=case.seed,
                        inverters=chosen,
                        vocabulary=vocabulary,
                        origin=clean,
                        work=Work(work, key),
                    )
                    # By index, too: a vocabulary may hold a name twice, and classes are told apart by index.
                    found = [{f"{c} {names[c]}": v for c, v in row.scores.items()} for row in examined.found]
                    done[key] = _Done(key, found, weights_hash(clip))
                    journal.append(kept, asdict(done[key]))
                    shutil.rmtree(work, ignore_errors=True)
                manifest.hashes[said] = done[key].weights
                rows.append(tuple(ranked(scores) for scores in done[key].statistics))
                told.append(said)
    null = Null(kind, identity, chosen, tuple(rows), tuple(told), rests)
    null.save(out)
    manifest.write(out.parent, noted)
    kept.unlink(missing_ok=True)
    return {
        "verb": "calibrate",
        "null": str(out),
        "clean_models": len(rows),
        "smallest_p_value": 1 / (len(rows) + 1),
        "inverters": list(chosen),
        "seed": case.seed,
        "seconds": round(manifest.seconds, 2),
    }


def _with_copies(
    base: Clip, images: ImageSet, head: Any, copies: int, seed: int, checkpoint: Path
) -> Iterator[tuple[str, Callable[[], Clip]]]:
    yield base.reference, lambda: base
    yield from clones(base, images, head, copies, seed, checkpoint)


@dataclass(frozen=True)
class _Done:
    """A line of what is kept: one model's statistics."""

    key: str
    statistics: list[dict[str, float]]
    weights: str
