"""Files that are whole or not there: written under a temporary name, flushed, then renamed."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from unbackdoor.devices import is_first_process
from unbackdoor.errors import InputError

COMPANIONS = (".json", ".txt", ".model")


def atomic(path: Path, write: Callable[[Path], None], *, every_process: bool = False) -> None:
    """Run `write` on a temporary name beside `path`, flush it to disk, then rename it into place.

    A kill at any moment leaves the old file or the new one, never half of one. Of several processes of one run, which
    all hold the same results, the first alone writes, unless `every_process`.
    """
    if not (every_process or is_first_process()):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp makes private files; results are ordinary ones
        temporary.replace(path)
        _keep_names(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _keep_names(folder: Path) -> None:
    """Flush a folder's entries: after a power cut the new name is there as well as the bytes."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # a system that does not open folders
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # or does not flush them
            raise
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Atomically write `text` as UTF-8."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    atomic(path, write)


def atomic_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Run `fill` on a temporary folder beside `folder`, flush it to disk, then rename it into place.

    Raises:
        InputError: `folder` is there already, and is a file or not empty.
    """
    if not is_first_process():
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is there already; give another folder, or move this one away")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        fill(temporary)
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        _keep_names(temporary)
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o777 & ~mask)
        temporary.replace(folder)
        _keep_names(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def copy_companions(
    source: Path, target: Path, *, but: tuple[str, ...] = (), kinds: tuple[str, ...] = COMPANIONS
) -> None:
    """Copy what lies beside weights, of the suffixes `kinds`, each file atomically; never an index or what `but` names.

    Files already in `target` are replaced, unless `target` is `source`. A link is followed only within the folder and
    within the hub's cache: one that points elsewhere could carry a private file into what the user publishes.
    """
    here = source.resolve()
    if not source.is_dir() or here == target.resolve():
        return
    allowed = (here, here.parent.parent / "blobs")
    for file in sorted(source.iterdir()):
        real = file.resolve()
        if file.suffix not in kinds or file.name.endswith(".index.json") or file.name in but or not real.is_file():
            continue
        if any(real.is_relative_to(place) for place in allowed):
            content = real.read_bytes()
            atomic(target / file.name, lambda temporary, content=content: _write(temporary, content))  # type: ignore[misc]


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
