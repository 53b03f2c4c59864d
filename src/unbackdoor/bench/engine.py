"""Where cells run: in processes of this machine, or on a Ray cluster. Both run the same function, `cells.run_cell`."""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

from unbackdoor.base.errors import InputError
from unbackdoor.bench.cells import Cell
from unbackdoor.bench.recipe import Json

Outcome = tuple[Json | None, str | None]  # a result, or why there is none


class Engine(Protocol):
    """Runs cells and hands back outcomes in the order in which they end; at most `slots` at once."""

    slots: int

    def submit(self, config: Json) -> Any:
        """Start a cell; the handle comes back from `next_done`."""
        ...

    def next_done(self, handles: list[Any]) -> tuple[Any, Outcome]:
        """Wait for one of `handles`."""
        ...

    def close(self) -> None:
        """Let go of processes."""
        ...


def attempt(out: str, config: Json, device: str, cell: Cell | None = None) -> Outcome:
    """`run_cell`, with every failure as a sentence: one bad cell must not end the grid."""
    from unbackdoor.bench.cells import run_cell

    try:
        return run_cell(Path(out), config, device, cell), None
    except InputError as error:
        return None, str(error)
    except Exception as error:
        return None, f"internal error: {type(error).__name__}: {error}"


class Local:
    """Worker processes of this machine, its cores shared out among them.

    Args:
        workers: processes; 0 means one per two cores. On a GPU they share the device. Each takes an equal share of the
            cores as threads, or OMP_NUM_THREADS where that is set.
        cell: in place of what is registered for a cell's kind; a function of a module.
    """

    def __init__(self, out: Path, device: str, workers: int, cell: Cell | None = None) -> None:
        cores = os.cpu_count() or 1
        self.slots = workers or max(1, cores // 2)
        self._out, self._device, self._cell = str(out), device, cell
        self._pool = ProcessPoolExecutor(
            self.slots,
            mp_context=get_context("spawn"),
            initializer=_prepare,
            initargs=(os.getpid(), int(os.environ.get("OMP_NUM_THREADS") or max(1, cores // self.slots))),
        )

    def submit(self, config: Json) -> Future[Outcome]:
        """See `Engine`."""
        return self._pool.submit(attempt, self._out, config, self._device, self._cell)

    def next_done(self, handles: list[Future[Outcome]]) -> tuple[Future[Outcome], Outcome]:
        """See `Engine`; a worker that died (out of memory, killed) is an outcome too."""
        done = next(iter(wait(handles, return_when=FIRST_COMPLETED).done))
        error = done.exception()
        return done, (None, f"worker process lost: {error}") if error else done.result()

    def close(self) -> None:
        """See `Engine`."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _prepare(parent: int, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    # Bars of several workers would write over one another; the grid prints a line per cell instead.
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115

    def watch() -> None:
        # A worker whose grid was killed would otherwise finish its cell unseen, beside the grid's next start.
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class OnRay:
    """Cells as Ray tasks; `out` must be a folder that every node sees.

    Args:
        workers: cells at once; 0 means as many as the cluster has CPUs for.
        cell: as for `Local`.
    """

    def __init__(self, out: Path, device: str, workers: int, cell: Cell | None = None) -> None:
        try:
            import ray
        except ImportError:
            raise InputError("--engine ray needs Ray; install unbackdoor[ray]") from None
        self._ray = ray
        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False)
        resources = ray.cluster_resources()
        gpus = resources.get("GPU", 0.0)
        self.slots = workers or max(1, int(gpus or resources.get("CPU", 1)))
        self._task = ray.remote(num_cpus=1, num_gpus=min(1.0, gpus / self.slots) if gpus else 0)(attempt)
        self._out, self._device, self._cell = str(out.absolute()), device, cell

    def submit(self, config: Json) -> Any:
        """See `Engine`."""
        return self._task.remote(self._out, config, self._device, self._cell)

    def next_done(self, handles: list[Any]) -> tuple[Any, Outcome]:
        """See `Engine`."""
        done = self._ray.wait(handles, num_returns=1)[0][0]
        try:
            outcome: Outcome = self._ray.get(done)
        except self._ray.exceptions.RayError as error:
            outcome = None, f"worker lost: {str(error).splitlines()[0]}"
        return done, outcome

    def close(self) -> None:
        """See `Engine`."""
        self._ray.shutdown()


ENGINES: dict[str, type[Local] | type[OnRay]] = {"local": Local, "ray": OnRay}
