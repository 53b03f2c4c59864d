"""From a spec string to decoded images: `embedded:scenes`, `parquet:PATH`, `hf:NAME`, `folder:PATH`, `wds:PATTERN`,
`csv:PATH`, each optionally followed by `#split`.

Splits: verbs ask for "train" or "test". A source with named splits answers "test" with test, validation or val. Where a
verb asks a source without splits for one, a fixed permutation divides it into 80% train and 20% test. Where a verb asks
for none (evaluation), it gets the test split if there is one, otherwise everything. `load_test` reads a source that the
user names to measure on; it reads it whole where it has no splits. `#split` overrides all; on a source without splits,
`#train` and `#test` are the same two shares.

`data/classes.py` settles what labels mean, for every source and every class file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from unbackdoor.base.draws import permutation
from unbackdoor.base.errors import InputError, first_line
from unbackdoor.base.notices import warn
from unbackdoor.base.registry import Registry
from unbackdoor.base.untrusted import is_there
from unbackdoor.clip.preprocess import Frame
from unbackdoor.data.classes import Classes, reconcile, reconciled
from unbackdoor.data.classnames import class_list
from unbackdoor.data.decode import decode_all
from unbackdoor.data.images import ImageSet
from unbackdoor.data.omissions import listed
from unbackdoor.data.source import Source, SourceKind, Split
from unbackdoor.data.splitnames import split_name
from unbackdoor.data.stream import Parts

SOURCES: Registry[SourceKind] = Registry(
    "data source",
    {
        "embedded": ("unbackdoor.data.embedded:KIND", "drawn images that come with unbackdoor"),
        "parquet": ("unbackdoor.data.parquet:KIND", "Parquet files, as the Hub's data sets"),
        "hf": ("unbackdoor.data.hub:KIND", "a data set of the Hub by its library"),
        "folder": ("unbackdoor.data.folder:KIND", "a folder of folders, one for each class"),
        "wds": ("unbackdoor.data.shards:KIND", "tar shards of WebDataset"),
        "csv": ("unbackdoor.data.table:KIND", "a table of paths, labels and captions"),
    },
    "unbackdoor.sources",
)
_TEST_NAMES = ("test", "validation", "valid", "val")


def load_images(
    spec: str,
    *,
    side: int | Frame,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    classes: str | Path | None = None,
) -> ImageSet:
    """Read and decode a source.

    Args:
        spec: see the module's first lines.
        side: `Clip.frame`, which frames pictures as the model's own preprocessing does (most models keep the aspect
            ratio and cut the centre out); a number of pixels makes them that square, bicubic, aspect ratio not kept.
        split: "train", "test", a source's own split name, or None.
        limit: a random subset of at most this size, drawn with `seed` before anything is decoded.
        classes: file of class names, or the name of a standard set, that replaces the source's own; matched by name, or
            by number where the source has numbers.

    Raises:
        InputError: unknown scheme, missing path, unknown split, no image, a limit below 1, or class names that do not
            fit.
    """
    return _load(spec, side, _Ask(split, limit, seed, classes))


def load_pictures(
    spec: str, *, side: int | Frame, limit: int | None = None, seed: int = 0, classes: str | Path | None = None
) -> ImageSet:
    """`load_images` of the training split for what needs no labels: those that do not fit are left aside.

    Args:
        classes: names that `ImageSet.classes` shall be, whatever the source calls its own.
    """
    return _load(spec, side, _Ask("train", limit, seed, classes, needed=False))


def load_test(
    test: str | ImageSet | None,
    data: str | ImageSet,
    *,
    side: int | Frame,
    of: Sequence[str],
    limit: int | None = None,
    classes: str | Path | None = None,
    needed: bool = True,
) -> ImageSet:
    """The images that a model is measured on, labelled by training's classes.

    Args:
        test: a source, whole where it has no splits, or decoded images; None takes the test split or share of `data`.
        data: what was trained on.
        of: class names of training, which those of the test set are mapped to by name.
        needed: whether labels are needed; if not, those that do not fit are left aside.

    Raises:
        InputError: as `load_images` and `reconciled`.
    """
    source = data if test is None else test
    if isinstance(source, ImageSet):
        images = source
    else:
        own = test is None or (isinstance(data, str) and _same_source(source, data))
        images = _load(source, side, _Ask("test", limit, 0, classes, needed=needed, whole=not own))
    try:
        return reconciled(images, of)
    except InputError as error:
        if needed:
            raise
        return _unlabeled(images, tuple(of), error)


@dataclass(frozen=True)
class _Ask:
    """Which images of a source to read; see `load_images`.

    Args:
        needed: whether labels are needed.
        whole: read a source without splits whole, although a split is asked for.
    """

    split: str | None = None
    limit: int | None = None
    seed: int = 0
    classes: str | Path | None = None
    needed: bool = True
    whole: bool = False


def _load(spec: str, side: int | Frame, ask: _Ask) -> ImageSet:
    limit = ask.limit
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit}: must be at least 1")
    address, forced = _address(spec)
    source = open_source(address)
    choice = forced or ask.split
    name = _resolve_split(spec, source, forced, ask.split)
    records = source.splits[name]()
    _say(address, (*source.notes, *records.notes))
    if not len(records):
        raise InputError(f"{spec}: split {name or 'all'!r} holds no images")
    # Before anything is decoded, and over all records, so that a limit changes no class.
    labels = _classes(spec, source, records, ask)
    rows = torch.arange(len(records))
    shared = name == "" and bool(choice) and not (ask.whole and not forced)
    if shared:
        rows = _share(len(records), str(choice))
        if not len(rows):
            raise InputError(f"{spec}: {len(records)} image is too few to set a test share aside; give more")
    if limit is not None and limit < len(rows):
        chosen = permutation(len(rows), ask.seed)[:limit]
        rows = rows[chosen.sort().values]
    images, readable = decode_all(records.picture, rows.tolist(), Frame.of(side), label=f"decoding {address}")
    if not readable:
        why = _why_unread(records, int(rows[0]))
        raise InputError(f"{spec}: none of {len(rows)} images could be read ({why}); check the files")
    unread = sorted(set(rows.tolist()) - set(readable))
    if unread:
        named = listed((records.name(i) for i in unread[:4]), len(unread))
        _say(address, (f"left out: {len(unread)} pictures that cannot be read ({named})",))
    captions = None if records.captions is None else tuple(records.captions[i] for i in readable)
    part = f"{address}#{name or (choice if shared else 'all')}"
    return ImageSet(images, labels.indices[readable], labels.names, captions, len(rows) - len(readable), part)


def describe(spec: str, *, classes: str | Path | None = None) -> dict[str, Any]:
    """Splits with their sizes, classes and images per class (of the split that evaluation reads); nothing is decoded.

    Raises:
        InputError: as `load_images`.
    """
    address, forced = _address(spec)
    source = open_source(address)
    name = _resolve_split(spec, source, forced, None)
    sizes = {key or "all": len(read()) for key, read in source.splits.items()}
    records = source.splits[name]()
    _say(address, (*source.notes, *records.notes))
    labels = _classes(spec, source, records, _Ask(classes=classes))
    names, counts = labels.names, Counter(labels.indices.tolist())
    return {
        "spec": spec,
        "splits": sizes,
        "split": name or "all",
        "classes": list(names),
        "counts": {names[i] if 0 <= i < len(names) else str(i): n for i, n in sorted(counts.items()) if i >= 0},
        "unlabelled": counts.get(-1, 0),
        "captions": records.captions is not None,
    }


def open_source(address: str) -> Source:
    """The source behind `scheme:rest`.

    Raises:
        InputError: unknown scheme, or whatever is wrong with the rest.
    """
    kind, rest = _kind(address)
    return kind.open(rest)


def _kind(address: str) -> tuple[SourceKind, str]:
    scheme, colon, rest = address.partition(":")
    if not colon or scheme not in SOURCES:
        kinds = ", ".join(f"{k}:…" for k in SOURCES.names())
        raise InputError(f"data {address!r}: not a data source; write one of {kinds}")
    if not rest:
        raise InputError(f"data {address!r}: nothing after the colon; write {scheme}:PATH")
    return SOURCES.get_a(SourceKind, scheme), rest


def open_pair_parts(spec: str, split: str | None) -> Parts | None:
    """The captioned parts behind a spec, to be streamed; None where the source can only be read as images.

    Raises:
        InputError: unknown scheme, or whatever is wrong with the rest.
    """
    address, forced = _address(spec)
    kind, rest = _kind(address)
    if kind.pairs is None:
        return None
    if forced and not kind.splits:
        raise InputError(f"{spec}: pairs are read whole; leave out #{forced} and name other files to hold some out")
    parts: Parts | None = kind.pairs(rest, forced or split)
    return parts


def _address(spec: str) -> tuple[str, str]:
    """Source and forced split; a path that exists as written may hold a # of its own."""
    if is_there(Path(spec.partition(":")[2])) or "#" not in spec:
        return spec, ""
    address, _, forced = spec.rpartition("#")
    return address, forced


def _why_unread(records: Split, row: int) -> str:
    """What is wrong with a record that could not be read."""
    try:
        records.picture(row)
    except (OSError, ValueError) as error:
        return f"{records.name(row)}: {first_line(error)}"
    return f"{records.name(row)} is no picture in a format that is read"


def _say(address: str, notes: tuple[str, ...]) -> None:
    for note in notes:
        warn(f"{address}: {note}")


def _resolve_split(spec: str, source: Source, forced: str, split: str | None) -> str:
    """The split that `#forced` names, or the one that a verb asks for; labelled ones are preferred for tests."""
    names, choice = list(source.splits), forced or split
    if forced and forced not in names:
        choice = split_name(forced) or forced
    if choice in names and not (choice in source.unlabeled and not forced):
        return str(choice)
    tests = [n for n in _TEST_NAMES if n in names]
    test = next((n for n in tests if n not in source.unlabeled), tests[0] if tests else None)
    if choice is None:
        return test if test is not None else names[0]
    if choice == "test" and test is not None:
        return test
    if choice in names:
        return choice
    if names == [""] and choice in ("train", "test"):
        return ""
    have = ", ".join(n or "(unnamed)" for n in names)
    raise InputError(f"{spec}: no split {choice!r}; it has {have}")


def _share(n: int, split: str) -> torch.Tensor:
    order = permutation(n, 0)
    cut = max(1, int(0.8 * n)) if n > 1 else n
    return (order[:cut] if split == "train" else order[cut:]).sort().values


def _same_source(one: str, other: str) -> bool:
    """Whether two specs name the same files, whatever split they ask for."""
    (a, _, rest), (b, _, further) = (_address(spec)[0].partition(":") for spec in (one, other))
    return a == b and (rest == further or Path(rest).resolve() == Path(further).resolve())


def _classes(spec: str, source: Source, records: Split, ask: _Ask) -> Classes:
    """Class names, and the class of every record."""
    classes = None if ask.classes is None else class_list(str(ask.classes))
    try:
        return reconcile(spec, source.classes, records.labels, classes)
    except InputError as error:
        if ask.needed:
            raise
        _warn_of_labels(spec, error)
        return Classes(() if classes is None else classes.names, torch.full((len(records),), -1, dtype=torch.int64))


def _unlabeled(images: ImageSet, classes: tuple[str, ...], error: InputError) -> ImageSet:
    _warn_of_labels(images.spec, error)
    return replace(images, labels=torch.full_like(images.labels, -1), classes=classes)


def _warn_of_labels(spec: str, error: InputError) -> None:
    warn(f"{spec}: its labels are left aside, since they are not needed and do not fit ({error})")
