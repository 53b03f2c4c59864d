"""One bounded walk through a stranger's folder: no loops, no devices, no way out by a link below a class.

Links to files and folders are followed where they stay within the folder. A link among the topmost folders may lead
elsewhere, since subsets of large sets are made that way; what lies below it must stay below it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from unbackdoor.base.errors import InputError
from unbackdoor.data.omissions import Omissions

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".tif", ".tiff"}
MOST_ENTRIES = 5_000_000
_DEEPEST = 32
# What file managers, archives and servers leave behind.
_LITTER = {
    "__macosx", "@eadir", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "lost+found",
    "#recycle", "__pycache__",
}  # fmt: skip


@dataclass(frozen=True)
class PictureFile:
    """A picture: where it lies, and its names from the walked folder down."""

    path: Path
    parts: tuple[str, ...]


class Walk:
    """Walks of one source, which share the count of entries and the notes."""

    def __init__(self, root: Path, omissions: Omissions) -> None:
        self._root, self._omissions = root, omissions
        self._entries = 0

    def folders(self, folder: Path) -> list[Path]:
        """The folders right inside, links followed, sorted; hidden ones and litter are left out, and not noted."""
        return [Path(e.path) for e in self._entries_of(folder, Omissions()) if _is_folder(e)]

    def files(self, folder: Path) -> list[Path]:
        """The other entries right inside, likewise."""
        return [Path(e.path) for e in self._entries_of(folder, Omissions()) if not _is_folder(e)]

    def pictures(self, folder: Path) -> list[PictureFile]:
        """Every picture below a folder, sorted by its names.

        Raises:
            InputError: more entries than `MOST_ENTRIES`, or two topmost folders that are one.
        """
        files: list[PictureFile] = []
        folders = {_identity(folder): ""}
        waiting: list[tuple[Path, tuple[str, ...], Path]] = [(folder, (), _real(folder))]
        while waiting:
            place, parts, base = waiting.pop()
            count = len(files) + len(waiting)
            # Folders before links to them, so that a link to what is walked anyway is the one that is left out.
            for entry in sorted(self._entries_of(place, self._omissions), key=lambda e: e.is_symlink()):
                here = (*parts, entry.name)
                if _is_folder(entry):
                    inner = base
                    if entry.is_symlink():
                        target = _real(Path(entry.path))
                        if not target.is_relative_to(base) and (parts or _within(folder, target)):
                            self._omissions.add("links that lead out of the folder", self._name(entry.path))
                            continue
                        inner = target if not parts else base
                    known = folders.setdefault(_identity(Path(entry.path)), "/".join(here))
                    if known != "/".join(here):
                        if not parts and known and "/" not in known:
                            raise InputError(f"{folder}: {known!r} and {entry.name!r} are one folder; remove one")
                        self._omissions.add("links to folders that are read already", self._name(entry.path))
                    elif len(here) > _DEEPEST:
                        self._omissions.add(f"folders deeper than {_DEEPEST} levels", self._name(entry.path))
                    else:
                        waiting.append((Path(entry.path), here, inner))
                elif Path(entry.name).suffix.lower() not in EXTENSIONS:
                    self._omissions.add("files that are no pictures", self._name(entry.path))
                elif entry.is_symlink() and not _real(Path(entry.path)).is_relative_to(base):
                    self._omissions.add("links that lead out of the folder", self._name(entry.path))
                elif not _checked(entry.is_file):
                    self._omissions.add("pipes, devices or broken links", self._name(entry.path))
                else:
                    files.append(PictureFile(Path(entry.path), here))
            if parts and count == len(files) + len(waiting):
                self._omissions.add("folders without a picture", self._name(str(place)))
        return sorted(files, key=lambda f: f.parts)

    def _bounded(self, entries: Iterable[os.DirEntry[str]]) -> list[os.DirEntry[str]]:
        rows = []
        for entry in entries:
            self._entries += 1
            if self._entries > MOST_ENTRIES:
                raise InputError(f"{self._root}: holds more than {MOST_ENTRIES:,} entries; give a smaller folder")
            rows.append(entry)
        return sorted(rows, key=lambda e: e.name)

    def _entries_of(self, folder: Path, omissions: Omissions) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                for entry in self._bounded(entries):
                    if entry.name.startswith("."):
                        omissions.add("hidden entries", self._name(entry.path))
                    elif entry.name.lower() in _LITTER:
                        omissions.add("entries of file managers and archives", self._name(entry.path))
                    else:
                        yield entry
        except OSError as error:
            omissions.add(f"folders that cannot be read ({error.strerror})", self._name(str(folder)))

    def _name(self, path: str) -> str:
        return Path(path).relative_to(self._root).as_posix()


def files_ending(root: Path, ending: str) -> list[Path]:
    """Files below a folder whose names end so, sorted; hidden ones, litter and what lies behind links are left out.

    Raises:
        InputError: more entries than `MOST_ENTRIES`.
    """
    paths, count = list[Path](), 0
    for place, folders, files in os.walk(root):
        folders[:] = [f for f in folders if not f.startswith(".") and f.lower() not in _LITTER]
        count += len(files) + len(folders)
        if count > MOST_ENTRIES:
            raise InputError(f"{root}: holds more than {MOST_ENTRIES:,} entries; give a smaller folder")
        paths += [Path(place) / f for f in files if f.lower().endswith(ending) and not f.startswith(".")]
    return sorted(paths)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return _checked(entry.is_dir)


def _checked(question: Callable[[], bool]) -> bool:
    """A question about an entry; no for a link that leads in a circle."""
    try:
        return question()
    except OSError:
        return False


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # `Path.resolve` fails at a circle of links


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _within(folder: Path, target: Path) -> bool:
    """Whether a link leads to where it comes from, or above."""
    return _real(folder).is_relative_to(target)
