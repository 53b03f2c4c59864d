"""Files that are whole or not there: written under a temporary name, flushed, then renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from unbackdoor.base.devices import is_first_process
from unbackdoor.base.errors import InputError, first_line

_LARGEST_COMPANION = 256 << 20  # bytes; the largest tokenizers have 35 MB
_SHORT = 100  # characters of a name that are taken over into that of its temporary file
COMPANIONS = (".json", ".txt", ".model")


def digest(*paths: Path) -> str:
    """SHA-256 of files' bytes, one file after the other; of a single one what `sha256sum` gives."""
    sha = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                sha.update(piece)
    return sha.hexdigest()


def atomic(path: Path, write: Callable[[Path], None], *, every_process: bool = False) -> None:
    """Run `write` on a temporary name beside `path`, flush it to disk, then rename it into place.

    A kill at any moment leaves the old file or the new one, never half of one. Of several processes of one run, which
    all hold the same results, the first alone writes, unless `every_process`.

    Raises:
        InputError: the system refuses: a full disk, no right to write, a name that is too long, a folder of that name.
    """
    if not (every_process or is_first_process()):
        return
    with _refusals(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:_SHORT]}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            _flush(temporary)
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)  # mkstemp makes private files; results are ordinary ones
            temporary.replace(path)
            _keep_names(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """What the system refuses while `path` is written, in one line: it is the user's to mend, not ours."""
    if "\0" in str(path):
        raise InputError(f"{path}: is no name of a file")
    try:
        yield
    except OSError as error:
        reason = error.strerror or first_line(error)
        if error.filename is not None and Path(os.fsdecode(error.filename)).parent not in (path.parent, path):
            reason = f"{os.fsdecode(error.filename)}: {reason}"  # of something that was read meanwhile, or of a parent
        raise InputError(
            f"{path}: cannot be written ({reason}); nothing of it is left behind; make room, or give another place"
        ) from None


def _flush(path: Path) -> None:
    with open(path, "r+b") as file:  # Windows flushes only what is open for writing
        os.fsync(file.fileno())


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
    """Atomically write `text` as UTF-8; half of a pair of surrogates, which has no form there, becomes `?`.

    Raises:
        InputError: as `atomic`.
    """

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8", errors="replace")

    atomic(path, write)


def atomic_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Run `fill` on a temporary folder beside `folder`, flush it to disk, then rename it into place.

    Raises:
        InputError: `folder` is there already, and is a file or not empty; the system refuses, as in `atomic`.
    """
    if not is_first_process():
        return
    with _refusals(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder}: is there already; give another folder, or move this one away")
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name[:_SHORT]}.", suffix=".tmp", dir=folder.parent))
        try:
            fill(temporary)
            for path in temporary.iterdir():
                _flush(path)
            _keep_names(temporary)
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o777 & ~mask)
            if os.name == "nt" and folder.exists():  # an empty one, which Windows does not replace
                folder.rmdir()
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

    Raises:
        InputError: one is larger than any such file; as `atomic`.
    """
    here = source.resolve()
    if not source.is_dir() or here == target.resolve():
        return
    allowed = (here, here.parent.parent / "blobs")
    for file in sorted(source.iterdir()):
        if file.suffix not in kinds or file.name.endswith(".index.json") or file.name in but or not file.is_file():
            continue
        real = file.resolve()
        if any(real.is_relative_to(place) for place in allowed):
            if real.stat().st_size > _LARGEST_COMPANION:
                raise InputError(f"{file}: has more than {_LARGEST_COMPANION:,} bytes, which no such file needs")
            atomic(target / file.name, partial(shutil.copyfile, real))


def cache_folder() -> Path:
    """Where files lie that can be made again: `UNBACKDOOR_CACHE`, else `~/.cache/unbackdoor`."""
    own = os.environ.get("UNBACKDOOR_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unbackdoor"
