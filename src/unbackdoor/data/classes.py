"""The one place that maps the classes of data to those to work with: a class file's, training's, another file's.

Names are matched by what they say, never by where they stand: as written, then normalised (`data/names.py`), then by
the ids and synonyms that a class file lists, then by WordNet's words for an id. Only numbers are matched by number:
labels without names, and names that are numbers (`7`, `007`, `7.0`). One line refuses a class that fits nothing or fits
two classes; a class that merely lacks images is no error.
"""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from unbackdoor.base.errors import InputError
from unbackdoor.base.notices import warn
from unbackdoor.data.classfile import ClassEntry, ClassList, as_list
from unbackdoor.data.images import ImageSet
from unbackdoor.data.names import alike, all_numbers, is_wnid, loosened, normalized, number_of, plain, without_count
from unbackdoor.data.source import Label

_NAMED = 3  # names in a message
_LARGEST_HEAD = 21_843  # ImageNet-21k; a longer list is a dictionary (words.txt names all of WordNet)
_FORMS: tuple[Callable[[str], str], ...] = (plain, normalized, loosened)


@dataclass(frozen=True)
class Classes:
    """What labels mean.

    Args:
        names: one per class, () when unknown.
        indices: int64, one per label: its class, −1 where unknown.
    """

    names: tuple[str, ...]
    indices: Tensor


def reconcile(spec: str, listed: Sequence[str], labels: Sequence[Any], classes: ClassList | None = None) -> Classes:
    """Class names and indices of a source's labels.

    Args:
        spec: the source, for messages.
        listed: names that the source's numbers index, () where it lists none.
        labels: numbers or names of every record of the split, None or a negative number where unknown.
        classes: classes that replace the source's own.

    Raises:
        InputError: a label that is neither, one without a name, a class that `classes` lacks, one that fits two.
    """
    own, index = _gathered(spec, [plain(name) for name in listed], [_clean(spec, label) for label in labels])
    used = sorted({i for i in index if i >= 0})
    if own:
        _check_range(spec, used, own)
    if classes is None:
        names, place = _own_names(spec, own)
    elif not own:
        names, place = classes.names, _by_number(spec, {i: i for i in used}, classes)
    else:
        classes = _chosen(_spoken(classes), own)
        names, place = classes.names, _placed(spec, own, used, classes)
    _warn_of_twins(spec if classes is None else classes.where, names)
    return Classes(names, torch.tensor([-1 if i < 0 else place.get(i, i) for i in index], dtype=torch.int64))


def reconciled(images: ImageSet, classes: Sequence[str], of: str = "training") -> ImageSet:
    """Images whose labels index `classes`, matched by name; those may be more, and in another order.

    Args:
        of: whose classes they are, for messages.

    Raises:
        InputError: the images have a class that `classes` lacks or that fits two, or labels without names.
    """
    if images.classes == tuple(classes) or not classes:
        return images
    used = sorted({int(i) for i in images.labels.unique().tolist() if i >= 0})
    if used and not images.classes:
        raise InputError(
            f"{images.spec}: its labels are numbers without names, and nothing says which of {of}'s {len(classes)} "
            "classes they mean; name them with --classes FILE"
        )
    _check_range(images.spec, used, images.classes)
    place = _placed(images.spec, images.classes, used, as_list(classes, f"the class list of {of}"))
    table = torch.full((max((*used, -1)) + 2,), -1, dtype=torch.int64)  # the last row is for −1
    for i in used:
        table[i] = place[i]
    labels = table[torch.where(images.labels < 0, torch.tensor(len(table) - 1), images.labels)]
    return replace(images, labels=labels, classes=tuple(classes))


def positions(own: Sequence[str], classes: Sequence[str], spec: str) -> tuple[int, ...]:
    """Where every name of one file's label list stands in another list, matched by name.

    Args:
        own: names that the file's labels index.
        classes: names to index instead.
        spec: the file, for messages.

    Raises:
        InputError: a name of `own` fits none of `classes`, or two.
    """
    place = _placed(
        spec, [plain(name) for name in own], range(len(own)), as_list(classes, "the other files' class list")
    )
    return tuple(place[i] for i in range(len(own)))


def merged(lists: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """All names of several files' label lists: the first list as it is, then what further ones add."""
    union: list[str] = []
    known: set[str] = set()
    for names in lists:
        fresh = [plain(name) for name in names if normalized(name) not in known]
        union += fresh
        known |= {normalized(name) for name in fresh}
    return tuple(union)


def check_named(spec: str, names: Sequence[str]) -> None:
    """Refuse classes that a model cannot be asked for, and warn of those that say little.

    Raises:
        InputError: WordNet ids for which no name is known.
    """
    if "" in names:
        raise InputError(f"{spec}: class {list(names).index('')} has no name; name all with --classes FILE")
    ids = [name for name in names if is_wnid(name)]
    if ids:
        raise InputError(
            f"{spec}: classes such as {_some(ids)} are WordNet ids that ImageNet does not name; give their names with "
            "--classes words.txt, one `n01440764 tench` a line"
        )
    if all_numbers(names):
        warn(f"{spec}: its classes are numbers ({_some(names)}), which say little to a model; name them with --classes")


def _clean(spec: str, label: Any) -> Label:
    """A label as a number, a name or None."""
    if label is None or isinstance(label, bool):
        return None if label is None else int(label)
    if isinstance(label, bytes):
        label = label.decode("utf-8", errors="replace")
    if isinstance(label, str):
        return plain(label) or None
    if isinstance(label, float):
        if math.isnan(label):
            return None
        whole = int(label) if math.isfinite(label) and label.is_integer() else None
    else:
        try:
            whole = operator.index(label)
        except TypeError:
            whole = None
    if whole is None or abs(whole) >= 1 << 62:
        raise InputError(f"{spec}: label {str(label)[:60]!r} is no class; labels must be small whole numbers or names")
    return whole if whole >= 0 else None


def _gathered(spec: str, listed: Sequence[str], labels: Sequence[Label]) -> tuple[list[str], list[int]]:
    """The data's own class names, and the place of every label among them."""
    words = {label for label in labels if isinstance(label, str)}
    if not words:
        return list(listed), [-1 if label is None else int(label) for label in labels]
    if not listed and all_numbers(words):  # `3.0` in a table is the number 3
        return [], [-1 if label is None else number_of(str(label)) or 0 for label in labels]
    own = [name for name in listed if name] or sorted(words)
    strange = sorted(words - set(own))
    if strange:
        raise InputError(f"{spec}: labels such as {_some(strange)} are none of its own {len(own)} class names")
    if any(isinstance(label, int) for label in labels):
        raise InputError(f"{spec}: some labels are names ({_some(sorted(words))}) and some numbers; use one kind")
    place = {name: i for i, name in enumerate(own)}
    return own, [-1 if label is None else place[str(label)] for label in labels]


def _check_range(spec: str, used: Sequence[int], own: Sequence[str]) -> None:
    if used and used[-1] >= len(own):
        raise InputError(f"{spec}: label {used[-1]} has no name; {len(own)} class names are known, from 0")


def _own_names(spec: str, own: Sequence[str]) -> tuple[tuple[str, ...], dict[int, int]]:
    """Names of data without a class file: numbers in numeric order, ImageNet's ids by their names."""
    if all_numbers(own):
        order = sorted(range(len(own)), key=lambda i: (number_of(own[i]) or 0, i))
        for a, b in pairwise(order):
            if number_of(own[a]) == number_of(own[b]):
                raise InputError(f"{spec}: the classes {own[a]!r} and {own[b]!r} are one number; rename one")
        return tuple(own[i] for i in order), {i: k for k, i in enumerate(order)}
    return _spoken(as_list(own)).names, {}


def _spoken(classes: ClassList) -> ClassList:
    """A list whose names are WordNet ids, with their names instead where every one is known."""
    if not classes.entries or not all(is_wnid(entry.name) for entry in classes.entries):
        return classes
    from unbackdoor.data.wordnet import name_of

    named = [(entry, name_of(entry.name)) for entry in classes.entries]
    if any(name is None for _, name in named):
        return classes
    return replace(classes, entries=tuple(ClassEntry(name or "", (e.name, *e.keys)) for e, name in named))


def _chosen(classes: ClassList, own: Sequence[str]) -> ClassList:
    """A list, or of a dictionary (words.txt) what the data has, in the data's order."""
    if len(classes.entries) <= _LARGEST_HEAD:
        return classes
    by_key = {key: entry for entry in classes.entries for key in (entry.name, *entry.keys) if is_wnid(key)}
    entries = tuple(by_key[name] for name in own if name in by_key)
    if not entries:
        raise InputError(
            f"{classes.where}: has {len(classes.entries):,} names, and none of them by an id of the data's"
        )
    return replace(classes, entries=entries)


def _by_number(spec: str, numbers: dict[int, int], classes: ClassList) -> dict[int, int]:
    """Places in `classes` of what has numbers, by key."""
    first, count = classes.first, len(classes.entries)
    if first is None and numbers:
        raise InputError(
            f"{spec}: its labels are numbers, and {classes.where} gives its names none; write one name a line in the "
            "order of the numbers, or a JSON object from number to name"
        )
    beyond = [n for n in numbers.values() if not 0 <= n - (first or 0) < count]
    if beyond:
        raise InputError(
            f"{spec}: label {beyond[-1]} has no name; {classes.where} names the numbers {first or 0} to "
            f"{count - 1 + (first or 0)}"
        )
    return {i: n - (first or 0) for i, n in numbers.items()}


def _placed(spec: str, own: Sequence[str], used: Sequence[int], classes: ClassList) -> dict[int, int]:
    """Place in `classes` of every class of `own` that is used."""
    if tuple(own) == classes.names:
        return {i: i for i in used}  # one list; a name may stand in it twice
    table = _Table(classes)
    fits = {i: table.fitting(name) for i, name in enumerate(own)}
    if not any(fits.values()) and all_numbers(own):
        return _by_number(spec, {i: number_of(own[i]) or 0 for i in used}, classes)
    _settle(fits, len(classes.entries))
    missing = [i for i in used if not fits[i]]
    if missing:
        raise _missing(spec, own, missing, classes, any(fits[i] for i in used))
    for i in used:
        if len(fits[i]) > 1:
            names = [classes.entries[k].name for k in sorted(fits[i])]
            raise InputError(
                f"{spec}: its class {own[i]!r} fits {len(names)} classes of {classes.where} ({_some(names)}); name "
                "them apart"
            )
    place = {i: next(iter(fits[i])) for i in used}
    sources: dict[int, int] = {}
    for i, k in place.items():
        other = sources.setdefault(k, i)
        if other != i:
            raise InputError(
                f"{spec}: its classes {own[other]!r} and {own[i]!r} both fit {classes.entries[k].name!r} of "
                f"{classes.where}; they are one class, or the list lacks one"
            )
    return place


def _settle(fits: dict[int, set[int]], count: int) -> None:
    """Two lists that agree in order wherever a name fits once also agree where one name stands for two classes.

    ImageNet's `crane` is a bird at 134 and a machine at 517.
    """
    sure = {i: next(iter(places)) for i, places in fits.items() if len(places) == 1}
    if len(fits) == count and 2 * len(sure) > count and all(i == k for i, k in sure.items()):
        fits.update({i: {i} for i, places in fits.items() if len(places) > 1 and i in places})


class _Table:
    """Classes by whatever may name them."""

    def __init__(self, classes: ClassList) -> None:
        self._names = [_by_form(form, [(e.name,) for e in classes.entries]) for form in (*_FORMS, _digits)]
        self._keys = [_by_form(form, [e.keys for e in classes.entries]) for form in (*_FORMS, _digits)]

    def fitting(self, name: str) -> set[int]:
        """The classes that a name fits, of the first of these ways in which it fits any."""
        return next(filter(None, (self._look(words) for words in self._ways(name))), set())

    def _ways(self, name: str) -> Iterable[tuple[str, ...]]:
        yield (name,)
        if is_wnid(name):
            from unbackdoor.data.wordnet import words_of

            words = words_of(name)
            yield from ((word,) for word in words[:2])
            yield words
        if "," in name:
            yield tuple(part.strip() for part in name.split(",") if part.strip())
        if without_count(name) != name:
            yield (without_count(name),)

    def _look(self, words: tuple[str, ...]) -> set[int]:
        for tables in (self._names, self._keys):
            for form, table in zip((*_FORMS, _digits), tables, strict=True):
                places = {k for word in words for k in table.get(form(word), ())} if table else set()
                if places:
                    return places
        return set()


def _digits(name: str) -> str:
    number = number_of(name)
    return "" if number is None else str(number)


def _by_form(form: Callable[[str], str], rows: Sequence[tuple[str, ...]]) -> dict[str, set[int]]:
    table: dict[str, set[int]] = {}
    for k, words in enumerate(rows):
        for word in words:
            table.setdefault(form(word), set()).add(k)
    table.pop("", None)
    return table


def _missing(spec: str, own: Sequence[str], missing: Sequence[int], classes: ClassList, some: bool) -> InputError:
    names = classes.names
    if some:
        lacking = [own[i] for i in missing]
        near = difflib.get_close_matches(normalized(lacking[0]), [normalized(n) for n in names[:5000]], n=1, cutoff=0.6)
        hint = f" (near it: {near[0]!r})" if near else ""
        return InputError(
            f"{spec}: {len(lacking)} of its classes are not in {classes.where}: {_some(lacking)}{hint}; add them "
            "there, or leave their images out"
        )
    pairs = [(i, *both) for i, both in enumerate(zip(own, names, strict=False)) if both[0] != both[1]]
    examples = ", ".join(f"{i}: {a[:60]!r} and {b[:60]!r}" for i, a, b in pairs[:_NAMED])
    return InputError(
        f"{spec}: none of its {len(own)} class names is among the {len(names)} of {classes.where} ({examples}); names "
        "are not matched by position: use the same ones, or give a JSON object from the data's names to yours"
    )


def _some(names: Sequence[str]) -> str:
    text = ", ".join(repr(name[:60]) for name in names[:_NAMED])
    return text if len(names) <= _NAMED else f"{text} and {len(names) - _NAMED} more"


def _warn_of_twins(where: str, names: Sequence[str]) -> None:
    pairs = alike(names)
    if pairs:
        a, b = pairs[0]
        more = "" if len(pairs) == 1 else f" and {len(pairs) - 1} more"
        warn(
            f"{where}: the classes {a!r} and {b!r}{more} are the same to a model, which can only guess between them; "
            "give each a name of its own"
        )
