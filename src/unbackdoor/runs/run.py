"""Where a run is noted: its folder, which holds one run's result, and the work that a killed one goes on from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unbackdoor.base.devices import is_first_process
from unbackdoor.base.errors import InputError, Interrupted, first_line
from unbackdoor.base.manifest import Manifest, write_json, write_jsonl
from unbackdoor.base.untrusted import as_type, is_there, read_json
from unbackdoor.clip.handle import Clip
from unbackdoor.runs.fields import RunFields
from unbackdoor.training.parallel import wait_for_all
from unbackdoor.weights.files import state_hash


@dataclass(frozen=True)
class Run(RunFields):
    """Where a run is noted.

    Args:
        out: folder, or file where the verb writes one; None writes nothing.
        track: tracker that is told of every step and of the result; None tells none.
        verb: how the result names the verb; empty for its own name.
        extra: what the result carries besides.
    """

    @property
    def folder(self) -> Path:
        """The place to write to.

        Raises:
            InputError: there is none.
        """
        if self.out is None:
            raise InputError("no output folder is named")
        return Path(self.out)


def weights_hash(clip: Clip) -> str:
    """SHA-256 of the model's weights as they stand."""
    return state_hash(clip.state())


@dataclass(frozen=True)
class _Ran:
    """Of a manifest what tells whose result lies there; older ones name no run."""

    verb: str
    run: str = ""
    started: str = ""


def claim(manifest: Manifest, folder: Path, name: str = "manifest.json", result: Path | None = None) -> None:
    """Refuse to write over another run's result; the same run may be made again.

    Args:
        manifest: of the run that begins, its `run` settled.
        name: of the manifest in `folder` that a finished run leaves.
        result: file that is written, where that is not a whole folder; without its manifest it is another's.

    Raises:
        InputError: there is another run's result, or something that is none of ours.
    """
    path = folder / name
    if not is_there(path):
        if result is not None and is_there(result):
            raise InputError(f"{result}: is there already, and not of a run that is known; give another name")
        return
    what = str(folder if result is None else result)
    try:
        other = as_type(read_json(path), _Ran, str(path))
    except InputError as error:
        raise InputError(f"{what}: holds another program's files ({error}); give another name") from None
    if (other.verb, other.run) != (manifest.verb, manifest.run):
        raise InputError(
            f"{what}: holds the result of another run ({other.verb[:40]}, begun {other.started[:40]}); give another "
            "name, or move it away"
        )


def check_verb(folder: Path, verb: str) -> None:
    """Refuse a folder that holds the result of another verb; runs of this one share it.

    Raises:
        InputError: it does.
    """
    path = folder / "manifest.json"
    if is_there(path):
        try:
            other = as_type(read_json(path), _Ran, str(path))
        except InputError as error:
            raise InputError(f"{folder}: holds another program's files ({error}); give another folder") from None
        if other.verb != verb:
            raise InputError(f"{folder}: holds the result of {other.verb[:40]}; give another folder")


@contextmanager
def resumable() -> Iterator[None]:
    """What is done within goes on from what it kept, which the user is told on an interrupt."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise Interrupted from stop


@contextmanager
def work_folder(out: Path, manifest: Manifest) -> Iterator[Path]:
    """`out/.work` for checkpoints; removed when the run ends well, kept when it is killed or fails.

    Several processes of one run leave it together, once the first has written everything.

    Raises:
        InputError: `out` is a file, cannot be made or written, or holds another run's result.
    """
    work = out / ".work"
    claim(manifest, out)
    try:
        work.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"{out}: cannot be used as an output folder ({reason})") from None
    with resumable():
        yield work
    wait_for_all()
    if is_first_process():
        shutil.rmtree(work, ignore_errors=True)


def finish(
    folder: Path,
    manifest: Manifest,
    result: Mapping[str, Any],
    *,
    metrics: list[dict[str, Any]] | None = None,
    report: Callable[[dict[str, Any], dict[str, Any]], Any] | None = None,
    name: str = "result.json",
) -> None:
    """Write what a run tells: the result last, so that where there is one, everything is there.

    Args:
        metrics: rows of `metrics.jsonl`.
        report: writes the page, of the result and the manifest.
        name: of the result's file.
    """
    if metrics is not None:
        write_jsonl(folder / "metrics.jsonl", metrics)
    manifest.write(folder)
    if report is not None:
        report(dict(result), manifest.as_dict())
    write_json(folder / name, result)
