"""`vet`: hold models against a policy, one or many, and write what other tools read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unbackdoor.base.disk import digest, write_text
from unbackdoor.base.errors import InputError
from unbackdoor.base.manifest import Manifest, run_key
from unbackdoor.base.printable import one_line, terminal
from unbackdoor.base.progress import Step, announce
from unbackdoor.bench.engine import ENGINES
from unbackdoor.bench.grid import run_grid
from unbackdoor.bench.recipe import Json
from unbackdoor.bench.store import address, folder_of, read_result
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.formats import FORMATS
from unbackdoor.formats.card import summary
from unbackdoor.report.vet import write_vet_report
from unbackdoor.runs.case import Case
from unbackdoor.runs.result import numbers, plain
from unbackdoor.runs.run import Run, claim, finish, weights_hash, work_folder
from unbackdoor.runs.verb import verb
from unbackdoor.scan.inverters import inverter, inverter_names
from unbackdoor.verbs.bench import grid_folder
from unbackdoor.verbs.configs.vet import VET, VetConfig
from unbackdoor.verbs.vet_model import Place, not_vetted, now, vet_model
from unbackdoor.version import __version__
from unbackdoor.vetting.files import files_of
from unbackdoor.vetting.models import expanded
from unbackdoor.vetting.policy import Policy, read_policy
from unbackdoor.vetting.result import VetResult, Vetting
from unbackdoor.vetting.verdict import worst

KIND = "vetting"
_INTERNAL = ("internal error", "worker")  # how the engines begin what is no user's mistake


@verb(VET)
def vet(case: Case, config: VetConfig, run: Run) -> VetResult:
    """Say what each model's files are, scan the model, cure it where the policy asks for it, and judge it.

    A file that would run code is told, and under the default policy nothing of its model is opened. A model that cannot
    be opened is a line with its error. Writes `result.json`, `report.html` and `manifest.json` into `out`, the scan and
    the cure in folders of their own, and a file for each of `formats`. Several models need `out`; there finished ones
    are not vetted again.

    Returns:
        `exit_code` (0 passes, 1 fails, 2 bad input, 3 internal error, 4 cannot tell; of several models the worst, in
        the order 1, 3, 2, 4, 0), `sentence`, `policy`, and `models`: of each its `verdict`, the `checks` that it rests
        on, `files` with their SHA-256, `scan` and `cure`.

    Raises:
        InputError: the policy, the list of models or the output folder cannot be used.
    """
    policy = config.policy if isinstance(config.policy, Policy) else _policy(config.policy)
    _check_outputs(config, policy, run)
    if len(config.models) == 1 and isinstance(config.models[0], Clip):
        return _one(replace(case, model=config.models[0]), config, policy, run)
    named = [model for model in config.models if isinstance(model, str)]
    if not named or len(named) < len(config.models):
        raise InputError("no model named; give references, folders, globs or @FILE, or one handle alone")
    models = expanded(named)
    if models == named and len(models) == 1:
        return _one(replace(case, model=models[0]), config, policy, run)
    if run.out is None:
        raise InputError("several models need --out FOLDER, where finished ones are kept")
    if any(isinstance(part, ImageSet | Clip) for part in (case.data, case.test, config.origin)):
        raise InputError("several models need data and an origin that are named, as other processes open them")
    if case.checkpoint is not None:
        raise InputError(f"--checkpoint {case.checkpoint} belongs to one model; name that model alone")
    return _many(models, case, config, policy, run.folder)


def _policy(path: Path | str | None) -> Policy:
    return Policy() if path is None else read_policy(Path(path))


def _check_outputs(config: VetConfig, policy: Policy, run: Run) -> None:
    if config.engine not in ENGINES:
        raise InputError(f"engine {config.engine!r} is none of {', '.join(ENGINES)}")
    if run.out is None and len(config.formats) > 1:
        raise InputError("several formats need --out FOLDER; one alone goes to stdout")
    if run.out is None and policy.cure:
        raise InputError("the policy asks for a cure, which needs --out FOLDER for the cured model")


def _one(case: Case, config: VetConfig, policy: Policy, run: Run) -> VetResult:
    """One model, its outputs in the run's own folder."""
    cell = _cell(case, config, policy)
    manifest = Manifest("vet", cell, run=run_key("vet", cell))
    if run.out is None:
        try:
            row = vet_model(case, config, policy, Place(None, manifest.run))
        except InputError as error:
            row = not_vetted(case, str(error), 2)
        return _result([row], case, config, policy, manifest)
    claim(manifest, run.folder)
    try:
        with work_folder(run.folder, manifest):
            row = vet_model(case, config, policy, Place(run.folder, manifest.run))
    except InputError as error:
        row = not_vetted(case, str(error), 2)
    return _written(_result([row], case, config, policy, manifest), config.formats, run.folder, manifest)


def _many(models: Sequence[str], case: Case, config: VetConfig, policy: Policy, out: Path) -> VetResult:
    """A line for each model, run by an engine; finished ones are read."""
    cells = [{"names": {"model": m}, "config": _cell(replace(case, model=m), config, policy)} for m in models]
    manifest = Manifest("vet-many", {"models": list(models), "engine": config.engine, "workers": config.workers})
    with grid_folder(out, "vet-many", alone=True):
        opened = ENGINES[config.engine]
        errors = run_grid(
            [(cell, []) for cell in cells], out, lambda: opened(out, case.device, config.workers, vetting_cell), _tell
        )
        rows = [_line(out, cell["config"], case, errors) for cell in cells]
        result = _result(rows, case, config, policy, manifest)
        write_text(out / "table.md", summary(result))
        return _written(result, config.formats, out, manifest)


def vetting_cell(out: Path, config: Json, folder: Path, device: str, manifest: Manifest) -> Json:
    """One of many models, by its configuration alone; both engines run this."""
    case = Case(**config["case"], device=device)
    how = VetConfig(**{**config["how"], "models": (config["case"]["model"],)})
    policy = Policy(**config["policy"])
    row = vet_model(case, how, policy, Place(folder, address(config)))
    result = _result([row], case, how, policy, manifest)
    write_vet_report(folder / "report.html", result.as_dict(), manifest.as_dict())
    form: Json = plain(row)
    return form


def _cell(case: Case, config: VetConfig, policy: Policy) -> Json:
    """Everything that decides a model's line, files by their content: its address, and what a worker is handed."""
    data = case.source()
    chosen = tuple(config.inverters or inverter_names())
    return {
        "kind": KIND,
        "case": {
            "model": case.model.reference if isinstance(case.model, Clip) else str(case.model),
            "data": f"{data.spec} {data.content_hash()}" if isinstance(data, ImageSet) else data,
            "test": f"{case.test.spec} {case.test.content_hash()}" if isinstance(case.test, ImageSet) else case.test,
            "limit": case.limit,
            "test_limit": case.test_limit,
            "classes": case.classes,
            "templates": case.templates,
            "seed": case.seed,
        },
        "how": {
            "origin": config.origin.reference if isinstance(config.origin, Clip) else config.origin,
            "null": None if config.null is None else str(config.null),
            "relatives": config.relatives,
            "inverters": None if config.inverters is None else list(config.inverters),
        },
        "policy": policy.as_dict(),
        "content": _content(case, config),
        "inverters": {name: inverter(name).version for name in chosen},
    }


def _content(case: Case, config: VetConfig) -> dict[str, Any]:
    """Hashes of what the names stand for, as far as it lies here; what cannot be read is for opening to say."""
    named = (config.null, case.classes, case.templates)
    return {
        "model": _weights(case.model, case.checkpoint),
        "origin": None if config.origin is None else _weights(config.origin),
        "files": {str(path): digest(Path(path)) for path in named if path is not None and Path(path).is_file()},
    }


def _weights(model: Any, checkpoint: Path | None = None) -> list[str]:
    """Hashes of a model's files; of one on the hub none, as it is not fetched before its turn comes."""
    if isinstance(model, Clip):
        return [weights_hash(model)]
    try:
        return [] if str(model).startswith("hf-hub:") else [f.sha256 for f in files_of(str(model), checkpoint)]
    except InputError:
        return []


def _line(out: Path, config: Json, case: Case, errors: dict[str, str]) -> Vetting:
    """The line of a finished cell, or of one that failed."""
    error = errors.get(address(config))
    if error is None and (finished := read_result(out, config)) is not None:
        folder = folder_of(out, config).relative_to(out).as_posix()
        return replace(_read_line(finished), folder=folder)
    code = 3 if error is None or error.startswith(_INTERNAL) else 2
    why = one_line(error or "internal error: no result")
    return not_vetted(replace(case, model=config["case"]["model"]), why, code)


def _read_line(raw: Json) -> Vetting:
    from unbackdoor.base.untrusted import as_type

    return as_type(raw, Vetting, "a finished model's result")


def _result(rows: Sequence[Vetting], case: Case, config: VetConfig, policy: Policy, manifest: Manifest) -> VetResult:
    data = case.source()
    return VetResult(
        exit_code=worst(row.exit_code for row in rows),
        sentence=rows[0].sentence if len(rows) == 1 else _summary(rows),
        version=__version__,
        data=data.spec if isinstance(data, ImageSet) else data,
        origin=config.origin.reference if isinstance(config.origin, Clip) else config.origin,
        policy=policy,
        models=tuple(rows),
        seed=case.seed,
        finished=now(),
        seconds=round(manifest.seconds, 2),
    )


def _summary(rows: Sequence[Vetting]) -> str:
    """How many models came to which verdict."""
    counts = {name: sum(row.verdict == name for row in rows) for name in dict.fromkeys(row.verdict for row in rows)}
    passing = sum(row.exit_code == 0 for row in rows)
    parts = ", ".join(f"{n} {name}" for name, n in counts.items())
    return f"{passing} of {len(rows)} models pass ({parts})."


def _written(result: VetResult, names: Sequence[str], out: Path, manifest: Manifest) -> VetResult:
    """The result with the files that are written beside it."""
    outputs: dict[str, tuple[str, ...]] = {}
    for name in dict.fromkeys(names):
        form = FORMATS.get(name)
        parts = [(out / row.folder, result.only(row)) for row in result.models] if form.each else [(out, result)]
        paths = []
        for folder, part in parts:
            text = None if form.file == result.file else form.render(part)
            if text is not None:
                write_text(folder / form.file, text)
            if text is not None or form.file == result.file:
                paths.append(str(folder / form.file))
        outputs[name] = tuple(paths)
    page = out / "report.html"
    whole = replace(result, outputs=outputs, report=str(page))

    def report(form: dict[str, Any], facts: dict[str, Any]) -> Path:
        return write_vet_report(page, form, facts)

    finish(out, manifest, whole, report=report)
    return whole


def _tell(cell: Json, done: int, total: int) -> None:
    """One line for each model on stderr, and its numbers for whoever asks."""
    if cell["error"] is not None:
        text = f"not vetted: {cell['error']}"
    else:
        text = f"{cell['result']['verdict']} ({cell['result']['wall_seconds']:.0f} s)"
    print(terminal(f"[{done}/{total}] {cell['names']['model']}: {text}"), file=sys.stderr, flush=True)
    measured = {} if cell["error"] is not None else numbers(cell["result"])
    announce(Step(str(cell["names"]["model"]), done, total, measured=measured))
