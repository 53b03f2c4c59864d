"""`folder:PATH`: one folder per class, optionally under train/, test/ or val/."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from unbackdoor.data.source import Source, Split
from unbackdoor.errors import InputError

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".tif", ".tiff"}
_SPLITS = ("train", "test", "validation", "valid", "val")


def open_source(rest: str) -> Source:
    """The source `folder:rest`."""
    root = Path(rest)
    if not root.is_dir():
        raise InputError(f"folder:{rest}: no such folder")
    parts = _splits(root) or {"": root}
    classes = sorted({d.name for part in parts.values() for d in part.iterdir() if d.is_dir()})
    return Source({name: partial(_read, part, tuple(classes)) for name, part in parts.items()}, tuple(classes))


def _splits(root: Path) -> dict[str, Path]:
    """Split folders; none where "train" is a class among others (a train beside a car), with pictures right inside."""
    found = {name: root / name for name in _SPLITS if (root / name).is_dir()}
    others = any(d.is_dir() and d.name not in found for d in root.iterdir())
    nested = any(d.is_dir() for part in found.values() for d in part.iterdir())
    return found if nested or not others else {}


def _read(part: Path, classes: tuple[str, ...]) -> Split:
    place = {name: i for i, name in enumerate(classes)}
    files = sorted(f for f in part.glob("**/*") if f.suffix.lower() in EXTENSIONS and f.is_file())
    # A picture directly in the folder belongs to no class.
    labels = [place.get(f.relative_to(part).parts[0]) if f.parent != part else None for f in files]
    return Split(labels, lambda i: files[i].read_bytes())
