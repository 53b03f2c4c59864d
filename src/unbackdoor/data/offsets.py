"""Where the samples of a big file lie: whole numbers in a file of their own, read through a memory map.

A file is scanned once; its table is kept in the cache folder (`UNBACKDOOR_CACHE`, else `~/.cache/unbackdoor`) under a
name made of path, size and time of change. It is written in pieces while scanning, so that neither making nor reading
it takes memory in proportion to the samples.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np

from unbackdoor.base.disk import atomic, cache_folder
from unbackdoor.base.errors import InputError

Add = Callable[..., None]
_PIECE = 8192  # numbers written at a time
_VERSION = 2  # of what the scanners write


def offset_table(path: Path, width: int, scan: Callable[[Path, Add], int]) -> tuple[np.ndarray, int]:
    """The table of a file, int64 (N, width), and how many samples were left out of it.

    Args:
        scan: (path, add) → number of broken samples; calls `add` with `width` numbers for every good one.

    Raises:
        InputError: the cache folder cannot be written.
    """
    status = path.stat()
    name = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}|{width}|{_VERSION}"
    file = cache_folder() / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.offsets"
    if not file.exists():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if not os.access(file.parent, os.W_OK):
                raise OSError("no permission")
        except OSError as error:
            raise InputError(
                f"{file.parent}: cannot be written ({error}); set UNBACKDOOR_CACHE to another folder"
            ) from None
        # Every process may need it and finds the same numbers, so whoever comes last does no harm.
        atomic(file, lambda temporary: _write(temporary, path, width, scan), every_process=True)
    numbers = np.memmap(file, dtype="<i8", mode="r")
    return numbers[:-1].reshape(-1, width), int(numbers[-1])


def _write(target: Path, path: Path, width: int, scan: Callable[[Path, Add], int]) -> None:
    numbers = array("q")
    with target.open("wb") as out:

        def flush() -> None:
            out.write(np.asarray(numbers, dtype="<i8").tobytes())
            del numbers[:]

        def add(*row: int) -> None:
            assert len(row) == width
            numbers.extend(row)
            if len(numbers) >= _PIECE:
                flush()

        numbers.append(scan(path, add))
        flush()
