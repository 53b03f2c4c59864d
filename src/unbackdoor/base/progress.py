"""How far long work is: a bar on a terminal and in a notebook, a line a minute elsewhere, and a call for whoever asks.

All that takes long says how far it is through `Progress`, and so to every `on_progress`.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from types import TracebackType
from typing import Any

from unbackdoor.base.devices import is_first_process
from unbackdoor.base.notebook import in_notebook
from unbackdoor.base.printable import terminal

SECONDS = 60.0  # between two lines where there is no terminal; what is over sooner prints none


BLINK = 0.2  # between two pictures of a notebook's bar


@dataclass(frozen=True)
class Step:
    """How far a piece of work is.

    Args:
        label: what it is, such as `trigger vector`; a run goes through several.
        done: steps of `total`, those before a kill included.
        loss: of this step, where the work is a training.
        measured: numbers by dotted key, where the step is one cell of a grid or one model of many.
    """

    label: str
    done: int
    total: int
    loss: float | None = None
    measured: Mapping[str, float] = field(default_factory=dict)


_CALLBACKS: list[Callable[[Step], None]] = []


@contextlib.contextmanager
def on_progress(callback: Callable[[Step], None]) -> Iterator[None]:
    """Within the block, call `callback` at every step of everything that shows a bar, in the thread that works.

    It is called in the first process alone. What it raises ends the work: a `KeyboardInterrupt` as Ctrl-C does, so that
    the same call goes on from there.

    >>> with on_progress(lambda step: print(step.label, step.done, step.total)):  # doctest: +SKIP
    ...     unbackdoor.scan(model="suspect", data="folder:pictures", out="finding")
    """
    _CALLBACKS.append(callback)
    try:
        yield
    finally:
        _CALLBACKS.remove(callback)


def announce(step: Step) -> None:
    """Tell whoever asks, where the work shows no bar of its own."""
    for callback in tuple(_CALLBACKS):
        callback(step)


class Progress:
    """Context manager around a rich bar on stderr, a bar in a notebook, or a line a minute where there is neither.

    Quiet in all processes but the first. Lines come from a thread of their own, as a step may take many minutes.
    """

    def __init__(self, label: str, total: int, start: int = 0, quiet: bool = False) -> None:
        self._label, self._total, self._start, self._quiet = terminal(label), total, start, quiet
        self._bar: Any = None
        self._cell: Any = None
        self._began = self._drawn = time.monotonic()
        self._done = start
        self._loss: float | None = None
        self._over: threading.Event | None = None

    def __enter__(self) -> Progress:
        if self._quiet or not is_first_process():
            return self
        if in_notebook():
            from IPython.display import HTML, display

            self._cell = display(HTML(self._picture()), display_id=True)
            return self
        if not sys.stderr.isatty():
            self._over = threading.Event()
            with contextlib.suppress(RuntimeError):  # no room for a thread, and the work is worth more than its lines
                threading.Thread(target=self._speak, args=(self._over,), daemon=True).start()
            return self
        from rich import progress
        from rich.console import Console

        self._bar = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[note]}", markup=False),
            progress.TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task(self._label, total=self._total, completed=self._start, note="")
        return self

    def step(self, done: int, loss: float | None = None) -> None:
        """Say that `done` of the total is done, with the current loss if there is one."""
        self._done, self._loss = done, loss
        if self._bar is not None:
            note = f"{self._rate():.1f}/s" if loss is None else f"loss {loss:.4f} · {self._rate():.1f}/s"
            self._bar.update(self._task, completed=done, note=note)
        if self._cell is not None and (done >= self._total or time.monotonic() - self._drawn >= BLINK):
            self._draw()
        if _CALLBACKS and not self._quiet and is_first_process():
            announce(Step(self._label, done, self._total, loss))

    def line(self) -> str:
        """How far it is: label, done of total, rate, loss, time left."""
        rate, parts = self._rate(), [f"{self._label}: {self._done}/{self._total}"]
        if rate > 0:
            parts.append(f"{rate:.2g}/s" if rate >= 1 else f"{1 / rate:.0f} s each")
        if self._loss is not None:
            parts.append(f"loss {self._loss:.4f}")
        parts.append(f"about {_span((self._total - self._done) / rate)} left" if rate > 0 else "no time known yet")
        return ", ".join(parts)

    def _draw(self) -> None:
        from IPython.display import HTML

        self._drawn = time.monotonic()
        self._cell.update(HTML(self._picture()))

    def _picture(self) -> str:
        """The bar of a notebook, with the line beside it."""
        return f'<progress value="{self._done}" max="{max(1, self._total)}"></progress> {escape(self.line())}'

    def _rate(self) -> float:
        return (self._done - self._start) / max(1e-9, time.monotonic() - self._began)

    def _speak(self, over: threading.Event) -> None:
        while not over.wait(SECONDS):
            print(self.line(), file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._over is not None:
            self._over.set()
        if self._bar is not None:
            self._bar.stop()


def _span(seconds: float) -> str:
    minutes = round(max(0.0, seconds) / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(1, minutes)} min"
