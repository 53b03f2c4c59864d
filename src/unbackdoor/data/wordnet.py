"""Names of WordNet ids, as ImageNet's folders are called: OpenCLIP's for its thousand, WordNet's own for 21,843.

Both tables come from the libraries that carry them: timm's lists of ids and lemmas are read as data, and ImageNet's
order is the order of its ids, in which OpenCLIP lists its names.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

from unbackdoor.base.untrusted import read_text


@lru_cache(maxsize=1)
def imagenet() -> dict[str, str]:
    """OpenCLIP's name of each of ImageNet's thousand ids, in ImageNet's order; empty where timm lacks the list."""
    from open_clip import IMAGENET_CLASSNAMES

    ids = _read("imagenet_synsets.txt").split()
    return dict(zip(ids, IMAGENET_CLASSNAMES, strict=True)) if len(ids) == len(IMAGENET_CLASSNAMES) else {}


@lru_cache(maxsize=1)
def lemmas() -> dict[str, str]:
    """WordNet's words for each id, divided by commas (`tench, Tinca tinca`)."""
    rows = (line.partition("\t") for line in _read("imagenet_synset_to_lemma.txt").splitlines())
    return {wnid: words for wnid, _, words in rows if words}


def words_of(wnid: str) -> tuple[str, ...]:
    """What an id may be called: OpenCLIP's name, WordNet's words together, then each alone; () for an unknown id."""
    words = lemmas().get(wnid, "")
    forms = (imagenet().get(wnid, ""), words, *(word.strip() for word in words.split(",")))
    return tuple(dict.fromkeys(word for word in forms if word))


def name_of(wnid: str) -> str | None:
    """The name to ask a model with: OpenCLIP's, else the first of WordNet's words; None for an unknown id."""
    words = lemmas().get(wnid, "").split(",")[0].strip()
    return imagenet().get(wnid) or words or None


def _read(name: str) -> str:
    root = package_folder("timm")
    path = root / "data" / "_info" / name if root else None
    return read_text(path) if path and path.is_file() else ""


def package_folder(name: str) -> Path | None:
    """Where a library lies, without importing it: timm would take seconds, and of others no code is run."""
    spec = importlib.util.find_spec(name)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
