"""`folder:PATH`: one folder per class, optionally under train/, test/ or val/; ImageNet's and its kin's layouts.

The rules are in docs/how-to/data.md. The source's notes count and name what the reader leaves out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from unbackdoor.base.errors import InputError
from unbackdoor.base.untrusted import read_bytes, read_text
from unbackdoor.data import labelfiles
from unbackdoor.data.omissions import Omissions, listed
from unbackdoor.data.source import LARGEST_IMAGE, Source, SourceKind, Split
from unbackdoor.data.splitnames import split_name
from unbackdoor.data.walk import EXTENSIONS, PictureFile, Walk

_SINGLE = {"images", "image", "imgs", "img", "pictures", "photos", "jpegimages"}  # folders that name no class
_INNER = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")  # ImageNet as Kaggle hands it out
_NAME_FILES = ("labels.txt", "classes.txt")
_WRAPPED = 6  # folders that hold nothing but one folder, at most so many in one another


@dataclass
class _Part:
    """Pictures of a split; `folders` are those that may be its classes, none where the pictures are unsorted."""

    place: Path
    pictures: list[PictureFile]
    folders: set[str] = field(default_factory=set)
    labels: dict[str, int] | None = None  # from an annotation
    spellings: dict[str, str] = field(default_factory=dict)  # of train, by those of this split


def open_source(rest: str) -> Source:
    """The source `folder:rest`.

    Raises:
        InputError: no folder, one of Python's pickles (CIFAR as it is handed out), or one that holds too much.
    """
    root = Path(rest)
    if not root.is_dir():
        raise InputError(f"folder:{rest}: no such folder")
    omissions, notes = Omissions(), list[str]()
    walk = Walk(root, omissions)
    _refuse_batches(rest, root, walk)
    inner = _unwrapped(root, walk)
    if inner != root:
        notes.append(f"read from its inner folder {inner.relative_to(root)}")
    places = _splits(rest, inner, walk) or {"": inner}
    parts = {name: _part(place, walk) for name, place in places.items()}
    if "" not in parts:
        beside = [p.name for p in walk.folders(inner) if p not in places.values()]
        if beside:
            notes.append(f"not read: folders beside {', '.join(parts)} ({listed(beside)})")
    known = parts["train"].folders if "train" in parts else set()
    spellings = {_key(folder): folder for folder in known}
    for name, part in parts.items():
        if len(spellings) == len(known):
            part.spellings = {folder: spellings.get(_key(folder), folder) for folder in part.folders}
            part.folders = set(part.spellings.values())
        if known and part.folders and not part.folders & known:
            raise InputError(
                f"folder:{rest}: no folder of {name} ({listed(sorted(part.folders))}) is a class of train "
                f"({listed(sorted(known))}); give each split as a source of its own, or sort it as train is sorted"
            )
    classes = _sorted({folder for part in parts.values() for folder in part.folders})
    for name, part in parts.items():
        if part.pictures and not part.folders and classes:
            notes += _annotate(name, part, root, classes)
    readers = {name: partial(_read, part, classes) for name, part in parts.items()}
    unlabeled = frozenset(n for n, p in parts.items() if classes and not p.folders and p.labels is None)
    return Source(readers, _named(root, inner, classes), (*notes, *omissions.notes()), unlabeled)


def _refuse_batches(rest: str, root: Path, walk: Walk) -> None:
    """CIFAR's own files are pickles, which are programs."""
    for place in (root, *walk.folders(root)):
        names = {f.name for f in walk.files(place)}
        if "data_batch_1" in names or {"train", "test", "meta"} <= names or "data_batch_1.bin" in names:
            raise InputError(
                f"folder:{rest}: {place.name} holds CIFAR's own files, which are Python pickles or raw bytes and are "
                "not read; take the set as Parquet files (parquet:FOLDER), or save its pictures as PNG files in one "
                "folder per class, for example with torchvision.datasets.CIFAR10"
            )


def _unwrapped(root: Path, walk: Walk) -> Path:
    """The folder with the splits or the classes, where archives put folders around it."""
    place = root
    for _ in range(_WRAPPED):
        known = next((place / inner for inner in _INNER if (place / inner).is_dir()), None)
        if known is not None:
            return known
        folders = walk.folders(place)
        # One folder alone is a class, unless it holds folders itself.
        pictures = any(f.suffix.lower() in EXTENSIONS for f in walk.files(place))
        if len(folders) != 1 or pictures or split_name(folders[0].name):
            return place
        inside = walk.folders(folders[0])
        if len(inside) < 2 and not any(split_name(f.name) or walk.folders(f) for f in inside):
            return place
        place = folders[0]
    return place


def _splits(rest: str, root: Path, walk: Walk) -> dict[str, Path]:
    """Split folders; none where "train" is a class among others (a train beside a car), with pictures right inside."""
    splits: dict[str, Path] = {}
    others = False
    for folder in walk.folders(root):
        name = split_name(folder.name)
        if name is None:
            others = True
        elif name in splits:
            raise InputError(f"folder:{rest}: {splits[name].name!r} and {folder.name!r} are both {name}; keep one")
        else:
            splits[name] = folder
    nested = any(walk.folders(part) for part in splits.values())
    return splits if nested or not others else {}


def _part(place: Path, walk: Walk) -> _Part:
    pictures = walk.pictures(place)
    folders = {f.parts[0] for f in pictures if len(f.parts) > 1}
    if len(folders) == 1 and folders <= {f for f in folders if f.lower() in _SINGLE}:
        inner = {f.parts[1] for f in pictures if len(f.parts) > 2}
        if inner and all(len(f.parts) > 2 for f in pictures):  # Final_Training/Images/00000
            return _Part(place, [PictureFile(f.path, f.parts[1:]) for f in pictures], inner)
        return _Part(place, pictures)
    return _Part(place, pictures, folders)


def _annotate(name: str, part: _Part, root: Path, classes: tuple[str, ...]) -> list[str]:
    """Read the labels of an unsorted split from the file that its set has for it; returns notes about them."""
    file = labelfiles.find(root, part.place)
    if file is None:
        return [
            f"the pictures of {name or 'it'} lie unsorted in {part.place.name}, in no class of train and without a "
            "file of labels; they count as unlabelled"
        ]
    part.labels = labelfiles.read(file, root, classes)
    unknown = [f.path.name for f in part.pictures if labelfiles.stem(f.path.name) not in part.labels]
    notes = [f"labels of {name} from {file.name}"]
    if unknown:
        notes.append(f"{len(unknown)} pictures of {name} ({listed(unknown)}) have no class in {file.name}")
    return notes


def _key(folder: str) -> str:
    """What two spellings of a class have in common."""
    return (folder.lstrip("0") or "0") if folder.isdecimal() else re.sub(r"[\s_-]+", " ", folder).strip().casefold()


def _sorted(names: set[str]) -> tuple[str, ...]:
    """By number where all are numbers: 2 comes before 10."""
    numbers = all(name.isdecimal() for name in names)
    return tuple(sorted(names, key=lambda name: (int(name[:18]) if numbers else 0, name)))


def _named(root: Path, inner: Path, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Class names from a list beside numbered folders, which count its lines; otherwise the folders' own."""
    if not classes or not all(name.isdecimal() for name in classes):
        return classes
    for file in (place / name for place in (inner, root) for name in _NAME_FILES):
        if file.is_file():
            lines = [line.strip() for line in read_text(file, inside=root).splitlines() if line.strip()]
            if int(classes[-1][:18]) < len(lines) and len(set(lines)) == len(lines):
                return tuple(lines[int(name)] for name in classes)
    return classes


def _read(part: _Part, classes: Sequence[str]) -> Split:
    place = {name: i for i, name in enumerate(classes)}
    files = part.pictures
    labels: list[int | str | None]
    if part.labels is not None:
        labels = [part.labels.get(labelfiles.stem(f.path.name)) for f in files]
    elif part.folders:
        # A picture directly in the folder belongs to no class.
        labels = [place[part.spellings.get(f.parts[0], f.parts[0])] if len(f.parts) > 1 else None for f in files]
    else:
        labels = [None] * len(files)
    return Split(labels, lambda i: read_bytes(files[i].path, LARGEST_IMAGE), name=lambda i: "/".join(files[i].parts))


KIND = SourceKind(open_source)
