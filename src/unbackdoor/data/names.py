"""Class names as people spell them: which two mean the same, and which are numbers or WordNet ids."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence

from unbackdoor.base.errors import InputError

_JOINING = re.compile(r"[\s_\-\u2010-\u2015]+")
_QUOTES = re.compile(r"['\u2019\u2018`\u00b4]")
# `+`, `#`, `&` and their like tell names apart (C++ and C#); these only divide or end them.
_PUNCTUATION = re.compile(r"[.,;:!?/\\|()\[\]{}<>\"\u201c\u201d\u2026]+")
_BETWEEN_LETTERS = re.compile(r"(?<=[^\W\d]) (?=[^\W\d])")
_NUMBER = re.compile(r"\+?([0-9]{1,18})(\.0{0,18})?")
_WNID = re.compile(r"n[0-9]{8}")
_COUNTED = re.compile(r"[0-9]{1,6}[ ._-]+(?=[^\W\d])")


def plain(name: str) -> str:
    """A name without marks that no reader sees (byte order mark, zero-width) and without spaces around it."""
    return "".join(c for c in name if unicodedata.category(c) != "Cf").strip()


def normalized(name: str) -> str:
    """A name without what writers change at will: case, `_`, `-`, spaces, forms of one letter in Unicode."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", plain(name)).casefold())
    return _JOINING.sub(" ", text).strip()


def loosened(name: str) -> str:
    """`normalized` without punctuation, and without spaces between letters (`sea horse`, `SeaHorse`); may be empty."""
    text = _PUNCTUATION.sub(" ", _QUOTES.sub("", normalized(name)))
    return _BETWEEN_LETTERS.sub("", " ".join(text.split()))


def number_of(name: str) -> int | None:
    """The whole number that a name is (`7`, `007`, `7.0`), or None."""
    match = _NUMBER.fullmatch(plain(name))
    return int(match.group(1)) if match else None


def all_numbers(names: Iterable[str]) -> bool:
    """Whether every name is a whole number, and there is one at least."""
    numbers = [number_of(name) for name in names]
    return bool(numbers) and None not in numbers


def is_wnid(name: str) -> bool:
    """Whether a name is an id of WordNet's nouns, as ImageNet's folders are called (`n01440764`)."""
    return _WNID.fullmatch(plain(name)) is not None


def without_count(name: str) -> str:
    """A name without the number that orders its folder (`001.Black_footed_Albatross`)."""
    return _COUNTED.sub("", plain(name), count=1) if _COUNTED.match(plain(name)) else name


def alike(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of names that are one when normalised, each with the first of its kind."""
    first: dict[str, int] = {}
    pairs = []
    for i, name in enumerate(names):
        known = first.setdefault(normalized(name), i)
        if known != i:
            pairs.append((names[known], name))
    return pairs


def target_index(classes: Sequence[str], target: str) -> int:
    """Index of the class named `target`: as written, but for case, spaces and punctuation, or as a number.

    Raises:
        InputError: no such class, which the message names the nearest ones to; or several.
    """
    for form in (str, str.lower, normalized, loosened):
        rows = [i for i, name in enumerate(classes) if form(name) == form(target) and form(target)]
        if len(rows) > 1:
            raise InputError(f"target {target!r} fits {len(rows)} of the classes; give each a name of its own")
        if rows:
            return rows[0]
    number = number_of(target)
    if number is not None:
        # Of classes that are numbers themselves, one is meant by its number and not by its place.
        places = [number_of(name) for name in classes] if all_numbers(classes) else list(range(len(classes)))
        if number in places:
            return places.index(number)
    lowered = [c.lower() for c in classes]
    near = difflib.get_close_matches(target.lower(), lowered, n=3, cutoff=0.5)
    hint = f"; did you mean {', '.join(near)}?" if near else f"; the first are {', '.join(list(classes)[:4])}"
    raise InputError(f"target {target!r} is not among the {len(classes)} classes{hint}")
