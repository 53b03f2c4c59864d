"""Reading the next batch while the current one trains."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """`make(step)`, with the step after it made meanwhile in a thread; steps may come in any order.

    Args:
        make: step → anything; depends on the step alone.
        steps: no step from this one on is made ahead.
    """

    def __init__(self, make: Callable[[int], T], steps: int) -> None:
        self._make, self._steps = make, steps
        self._pool = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[T]] | None = None

    def __call__(self, step: int) -> T:
        """What `make(step)` gives; errors of the thread are raised here."""
        if self._next is not None and self._next[0] == step:
            batch = self._next[1].result()
        else:
            batch = self._pool.submit(self._make, step).result()
        self._next = (step + 1, self._pool.submit(self._make, step + 1)) if step + 1 < self._steps else None
        return batch

    def __enter__(self) -> Ahead[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
