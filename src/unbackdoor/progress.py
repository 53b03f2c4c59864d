"""A progress bar with loss, rate and time left on a terminal; silence elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from unbackdoor.devices import is_first_process


class Progress:
    """Context manager around a rich bar on stderr; quiet without a terminal, and in all processes but the first."""

    def __init__(self, label: str, total: int, start: int = 0, quiet: bool = False) -> None:
        self._label, self._total, self._start, self._quiet = label, total, start, quiet
        self._bar: Any = None
        self._began = time.monotonic()

    def __enter__(self) -> Progress:
        if not self._quiet and is_first_process() and sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.fields[note]}"),
                progress.TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._label, total=self._total, completed=self._start, note="")
        return self

    def step(self, done: int, loss: float | None = None) -> None:
        """Say that `done` of the total is done, with the current loss if there is one."""
        if self._bar is None:
            return
        rate = (done - self._start) / max(1e-9, time.monotonic() - self._began)
        note = f"{rate:.1f}/s" if loss is None else f"loss {loss:.4f} · {rate:.1f}/s"
        self._bar.update(self._task, completed=done, note=note)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
