"""Image paths in a stranger's table: regular files inside the table's folder, unless the user says otherwise.

`--allow-outside`, or `with allow_outside():` around a call in Python, lets them lie anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PurePosixPath, PureWindowsPath

from unbackdoor.base.errors import InputError
from unbackdoor.base.untrusted import check_inside, read_bytes
from unbackdoor.data.omissions import Omissions
from unbackdoor.data.source import LARGEST_IMAGE

_ALLOWED: ContextVar[bool] = ContextVar("outside_allowed", default=False)
_OUTSIDE = "image paths that lead out of the folder, which --allow-outside would follow"


@contextmanager
def allow_outside() -> Iterator[None]:
    """Tables and Parquet files that are opened within the block may name images anywhere on this machine."""
    token = _ALLOWED.set(True)
    try:
        yield
    finally:
        _ALLOWED.reset(token)


class Images:
    """Reads images by the paths that a file in `folder` names; `allow_outside` counts at the time it was made."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._anywhere = folder, _ALLOWED.get()

    def read(self, name: str) -> bytes:
        """Bytes of the image.

        Raises:
            InputError: no such file, one outside the folder, no regular file, or one that is too large.
        """
        if not name:
            raise InputError("no image path")
        inside = None if self._anywhere else self._folder
        return read_bytes(self._path(name), LARGEST_IMAGE, inside=inside)

    def check(self, name: str, omissions: Omissions) -> None:
        """Note a path that leads out of the folder; links are followed only when it is read."""
        if self._anywhere or not (_absolute(name) or ".." in PurePosixPath(name.replace("\\", "/")).parts):
            return
        try:
            check_inside(self._path(name), self._folder)
        except InputError:
            omissions.add(_OUTSIDE, name)

    def _path(self, name: str) -> Path:
        path = self._folder / name
        # Written on Windows.
        return path if "/" in name or "\\" not in name or path.exists() else self._folder / name.replace("\\", "/")


def _absolute(name: str) -> bool:
    return name.startswith(("/", "\\")) or PureWindowsPath(name).drive != ""
