"""`--track`: every step and the result of a run to TensorBoard, Weights & Biases or MLflow, by Accelerate's trackers.

Nothing is imported, written or sent without it. A tracker begins with the first step, and not before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from unbackdoor.base.devices import is_first_process
from unbackdoor.base.errors import InputError, first_line
from unbackdoor.base.progress import Step, on_progress
from unbackdoor.runs.fields import RunFields
from unbackdoor.runs.result import Result, numbers
from unbackdoor.runs.run import Run

PROJECT = "unbackdoor"
FILES = (".safetensors", ".jsonl")  # outputs of `vector` and `scan --calibrate`, which have no folder
_MOST = 500  # numbers of a result
_OWN = tuple(f.name for f in fields(RunFields))  # where a run is noted is nobody else's business
# What each tracker's constructor takes besides the name of the run or of the project.
_GIVEN: Mapping[str, Callable[[Path, str], dict[str, Any]]] = {
    "tensorboard": lambda folder, verb: {"run_name": verb, "logging_dir": folder},
    "wandb": lambda folder, verb: {"run_name": PROJECT, "dir": str(folder), "job_type": verb},
    "mlflow": lambda folder, verb: {"experiment_name": PROJECT, "logging_dir": folder, "run_name": verb},
}


@contextmanager
def tracked(run: Run, verb: str, settings: Mapping[str, Any]) -> Iterator[Callable[[Any], None]]:
    """Within the block, whatever shows a bar is sent to the run's tracker; what the block gets takes the result.

    Args:
        settings: what the verb was called with.

    Raises:
        InputError: the run has no folder, or the tracker or Accelerate is not installed or cannot begin.
    """
    if run.track is None or not is_first_process():
        yield lambda result: None
        return
    log = _Log(run.track, _place(run.folder), verb, settings)
    try:
        with on_progress(log.step):
            yield log.result
    finally:
        log.finish()


def _place(out: Path) -> Path:
    """The tracker's folder: in the output folder, or beside the output where that is a file."""
    return out.with_name(f"{out.name}.tracking") if out.suffix in FILES else out / "tracking"


class _Log:
    """A tracker that begins when there is something to tell."""

    def __init__(self, name: str, folder: Path, verb: str, settings: Mapping[str, Any]) -> None:
        self._name, self._folder, self._verb = name, folder, verb
        self._settings = {
            key: _plain(value) for key, value in settings.items() if value is not None and key not in _OWN
        }
        self._kind = _kind(name)
        self._tracker: Any = None
        self._count = 0  # W&B takes no step that lies before the last

    def step(self, step: Step) -> None:
        """A loss, what was measured, or the share that is done."""
        if step.loss is not None:
            values = {"loss": step.loss}
        else:
            values = dict(step.measured) or {"done": step.done / max(1, step.total)}
        values = {_metric(f"{step.label}/{key.replace('.', '/')}"): value for key, value in values.items()}
        self._begun().log(values, step=self._count)
        self._count += 1

    def result(self, result: Mapping[str, Any]) -> None:
        """The result's numbers, under `result/`."""
        measured = result.measured() if isinstance(result, Result) else numbers(result)
        flat = {_metric(f"result/{key.replace('.', '/')}"): value for key, value in measured.items()}
        if flat:
            self._begun().log(dict(list(flat.items())[:_MOST]), step=self._count)

    def finish(self) -> None:
        """Close it, if it was begun."""
        if self._tracker is not None:
            self._tracker.finish()

    def _begun(self) -> Any:
        if self._tracker is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                tracker = self._kind(**_GIVEN[self._name](self._folder, self._verb))
                getattr(tracker, "start", lambda: None)()  # Accelerate 1.10 and later; before, the constructor starts
                tracker.store_init_configuration(self._settings)
            except Exception as error:  # the tracker's own: no key, no server, no package
                raise InputError(f"--track {self._name}: cannot begin ({first_line(error)})") from None
            self._tracker = tracker
        return self._tracker


def _metric(text: str) -> str:
    """A name that every tracker takes; MLflow wants a path of plain characters that does not climb."""
    parts = (re.sub(r"[^\w\-. ]", "_", part, flags=re.ASCII) for part in text.split("/"))
    return "/".join(part for part in parts if part not in ("", ".", ".."))


def _kind(name: str) -> Any:
    try:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS
    except ImportError:
        raise InputError(f"--track {name} needs Accelerate; pip install accelerate {name}") from None
    return LOGGER_TYPE_TO_CLASS[name]


def _plain(value: Any) -> Any:
    """A setting as trackers take it; handles and data sets in their own few words."""
    return value if isinstance(value, bool | int | float | str) else str(value)
