"""Files of class names in the forms that people have: lines, JSON, CSV, a list in Python, tables of WordNet ids.

Nothing is run: what looks like Python must be made of strings, numbers and brackets alone. Where a file gives classes
numbers, these count, and they must be all of 0 to N−1 or of 1 to N; a gap or a number given twice is refused.
"""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

from unbackdoor.base.errors import InputError
from unbackdoor.base.untrusted import parse_json, read_text
from unbackdoor.data.names import is_wnid, loosened, number_of, plain

_MOST = 100_000  # WordNet's nouns are 82,115
_LONGEST = 1000  # characters of a name
_DEEPEST = 4
_FORMS = "write one a line, a JSON list, or a JSON object from number to name"
_HELD = ("classes", "classnames", "names", "labels", "labelnames", "categories", "finelabelnames")
_NAME = ("name", "classname", "labelname", "categoryname", "class", "label", "category", "words", "title", "text")
_ID = ("id", "classid", "labelid", "index", "idx", "classindex", "classidx", "labelindex", "number", "target", "")
_KEY = ("wnid", "synset", "synsetid", "wordnetid", "folder", "directory", "code", "key")
_ASSIGNED = re.compile(r"\w+\s*=\s*(?=[\[({])")
_TOKEN = re.compile(
    r"""\s+|\#[^\n]*|[\[\](){},:]|[0-9]+|u?"(?:[^"\\\n]|\\.)*"|u?'(?:[^'\\\n]|\\.)*'""", re.VERBOSE | re.DOTALL
)
_SYNSET = re.compile(r"(n[0-9]{8})(?:[\s,]+([0-9]+))?[\s,]+(\S.*)")
_NUMBER_FIRST = re.compile(r"([0-9]{1,9})(\s*[:;,=\t|]\s*|[.)]\s+|\s+)(\S.*)")
_NUMBER_LAST = re.compile(r"(.*\S)(\s*[:;,=\t|]\s*|\s+)([0-9]{1,9})")
_PLACEHOLDER = re.compile(r"LABEL_[0-9]+")


@dataclass(frozen=True)
class ClassEntry:
    """One class.

    Args:
        name: what a model is asked with.
        keys: what else data may call it: its WordNet id, its folder, its synonyms.
    """

    name: str
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClassList:
    """Classes in the order of their numbers.

    Args:
        first: number of the first, 0 or 1; None where their order is no numbering, so that only names can be matched.
        where: the file or the standard set, for messages.
    """

    entries: tuple[ClassEntry, ...]
    first: int | None = 0
    where: str = "the class list"

    @property
    def names(self) -> tuple[str, ...]:
        """What a model is asked with, in order."""
        return tuple(entry.name for entry in self.entries)


def as_list(names: Iterable[str], where: str = "the class list") -> ClassList:
    """Names in the order of their numbers."""
    return ClassList(tuple(_named(name) for name in names), 0, where)


def read_class_file(path: Path) -> ClassList:
    """The classes of a file; see the module's first lines for its forms.

    Raises:
        InputError: unreadable, of no known form, empty, a class without a name, numbers with gaps or given twice.
    """
    where = str(path)
    text = read_text(path).strip()
    body = _ASSIGNED.sub("", text, count=1) if _ASSIGNED.match(text) else text
    if body[:1] in ("[", "{", "("):
        classes = _of_value(_value(body, where), where)
    else:
        classes = _of_lines([line.strip() for line in text.splitlines() if line.strip()], path)
    return _checked(classes)


def read_lines(path: Path) -> tuple[str, ...]:
    """Sentences of a file: one a line, or a list in JSON or Python.

    Raises:
        InputError: unreadable, empty, or a list of other things.
    """
    text = read_text(path).strip()
    if text.startswith("["):
        rows = _value(text, str(path))
        if not all(isinstance(item, str) for item in rows):
            raise InputError(f"{path}: the list must hold strings alone")
    else:
        rows = [line.strip() for line in text.splitlines()]
    lines = tuple(line for line in rows if line.strip())
    if not lines:
        raise InputError(f"{path}: is empty; write one a line")
    return lines


def _checked(classes: ClassList) -> ClassList:
    if not classes.entries:
        raise InputError(f"{classes.where}: holds no names; {_FORMS}")
    if len(classes.entries) > _MOST:
        raise InputError(f"{classes.where}: has {len(classes.entries):,} names; {_MOST:,} at most are read")
    for number, entry in enumerate(classes.entries, classes.first or 0):
        if not entry.name:
            raise InputError(f"{classes.where}: class {number} has no name")
        if len(entry.name) > _LONGEST:
            raise InputError(f"{classes.where}: the name of class {number} has {len(entry.name):,} characters")
    if all(_PLACEHOLDER.fullmatch(entry.name) for entry in classes.entries):
        raise InputError(
            f"{classes.where}: its names are the placeholders LABEL_0, …, that stand where nobody wrote names; "
            "give the real ones"
        )
    return classes


def _value(text: str, where: str) -> Any:
    """A JSON document, or a literal of Python's."""
    try:
        return parse_json(text, where, unique=True)
    except InputError as error:
        literal = _literal(text, where)
        if literal is None:
            raise InputError(f"{error}; nor is it a list of strings in Python") from None
        return literal


def _literal(text: str, where: str) -> Any:
    """A literal of strings, numbers, lists, tuples and dictionaries; None where the text is anything else."""
    depth = end = 0
    while end < len(text):
        token = _TOKEN.match(text, end)
        if token is None:
            return None
        depth += (token.group() in "[({") - (token.group() in "])}")
        if depth > _DEEPEST:
            return None
        end = token.end()
    try:
        tree = ast.parse(text, mode="eval")
        for node in ast.walk(tree):
            keys = [ast.literal_eval(key) for key in node.keys if key] if isinstance(node, ast.Dict) else []
            if len(set(keys)) != len(keys):
                raise InputError(f"{where}: a key of the dictionary occurs twice")
        return ast.literal_eval(tree)
    except InputError:
        raise
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def _of_value(value: Any, where: str) -> ClassList:
    if isinstance(value, list | tuple):
        if value and all(isinstance(item, dict) for item in value):
            return _of_rows(_rows_of(value), where)
        return ClassList(tuple(_entry(item, where) for item in value), 0, where)
    if not isinstance(value, dict):
        raise _unknown(where)
    fields = {loosened(str(key)): item for key, item in value.items()}
    by_id, by_name = fields.get("id2label"), fields.get("label2id")
    if isinstance(by_id, dict) and by_id:
        classes = _of_mapping(by_id, where)
        if isinstance(by_name, dict) and by_name and set(_of_mapping(by_name, where).names) != set(classes.names):
            raise InputError(f"{where}: its id2label and its label2id name other classes; leave one of them out")
        return classes
    if isinstance(by_name, dict) and by_name:
        return _of_mapping(by_name, where)
    held = next((fields[key] for key in _HELD if isinstance(fields.get(key), list | dict) and fields[key]), None)
    if held is not None:
        return _of_value(held, where) if isinstance(held, list) else _of_mapping(held, where)
    return _of_mapping(value, where)


def _of_mapping(value: Mapping[Any, Any], where: str) -> ClassList:
    """Number to name, name to number, or the data's name to another name."""
    keys = [str(key) for key in value]
    numbers = [number_of(key) for key in keys]
    if keys and None not in numbers:
        return _numbered([(n, _entry(v, where)) for n, v in zip(numbers, value.values(), strict=True)], where)
    keyed = [
        number_of(str(v)) if isinstance(v, int | str) and not isinstance(v, bool) else None for v in value.values()
    ]
    if keys and None not in keyed:
        return _numbered([(n, _named(key)) for n, key in zip(keyed, keys, strict=True)], where)
    strange = next((key for key in keys if re.fullmatch(r"[+-]?[0-9.]+", key.strip())), None)
    if strange is not None:
        raise InputError(f"{where}: {strange[:40]!r} is no number of a class beside the other keys; number all from 0")
    entries = (_entry(item, where) for item in value.values())
    return ClassList(tuple(_with(e, key) for e, key in zip(entries, keys, strict=True)), None, where)


def _entry(item: Any, where: str) -> ClassEntry:
    """A name, or ImageNet's `["n01440764", "tench"]`, whose names have `_` for spaces."""
    if isinstance(item, int) and not isinstance(item, bool):
        return ClassEntry(str(item))
    if isinstance(item, str):
        return _named(item)
    if isinstance(item, list | tuple) and item and all(isinstance(word, str) for word in item):
        ids = tuple(plain(word) for word in item if is_wnid(word))
        words = [plain(word) for word in item if not is_wnid(word)]
        if ids and words:
            return ClassEntry(words[0].replace("_", " "), (*ids, *words))
        return ClassEntry(plain(item[0]), tuple(plain(word) for word in item[1:]))
    raise _unknown(where)


def _named(text: str) -> ClassEntry:
    """A name; where it lists synonyms with commas, each may be the data's."""
    name = plain(text)
    return ClassEntry(name, tuple(part.strip() for part in name.split(",") if part.strip()) if "," in name else ())


def _with(entry: ClassEntry, *keys: str) -> ClassEntry:
    return ClassEntry(entry.name, (*(plain(key) for key in keys), *entry.keys))


def _numbered(pairs: Iterable[tuple[int | None, ClassEntry]], where: str) -> ClassList:
    rows = sorted(((n, entry) for n, entry in pairs if n is not None), key=lambda row: row[0])
    numbers = [n for n, _ in rows]
    twice = next((a for a, b in pairwise(numbers) if a == b), None)
    if twice is not None:
        raise InputError(f"{where}: number {twice} is given to two classes; give each its own")
    first = numbers[0] if numbers and numbers[0] == 1 else 0
    gap = next((want for want, n in enumerate(numbers, first) if want != n), None)
    if gap is not None:
        raise InputError(
            f"{where}: no class has the number {gap}, but one has {numbers[-1]}; number all of them from 0"
        )
    return ClassList(tuple(entry for _, entry in rows), first, where)


def _of_lines(lines: Sequence[str], path: Path) -> ClassList:
    where = str(path)
    synsets = [_SYNSET.fullmatch(line) for line in lines]
    if lines and all(synsets):
        return _of_synsets([(m[1], m[2], m[3]) for m in synsets if m], where)
    for delimiter in ",\t;":
        header = [loosened(cell) for cell in lines[0].split(delimiter)] if lines else []
        if _is_header(header, path):
            return _of_rows(_csv_rows(lines, delimiter, where), where)
    for pattern, number, name in ((_NUMBER_FIRST, 1, 3), (_NUMBER_LAST, 3, 1)):
        matches = [m for m in map(pattern.fullmatch, lines) if m]
        if lines and len(matches) == len(lines):
            return _of_numbered_lines([(int(m[number]), m[name], m[2]) for m in matches], lines, where)
    return as_list(lines, where)


def _of_synsets(rows: Sequence[tuple[str, str | None, str]], where: str) -> ClassList:
    """`n01440764 tench, Tinca tinca`, as in words.txt and LOC_synset_mapping.txt, perhaps with a number between."""
    entries = []
    for wnid, _, words in rows:
        parts = [plain(word) for word in words.split(",") if word.strip()]
        # Only where a word has no spaces does `_` stand for them, as in map_clsloc.txt.
        name = parts[0] if " " in words else parts[0].replace("_", " ")
        entries.append(ClassEntry(name, (wnid, plain(words), *parts)))
    numbers = [None if number is None else int(number) for _, number, _ in rows]
    if None not in numbers:
        return _numbered(zip(numbers, entries, strict=True), where)
    return ClassList(tuple(entries), 0, where)


def _of_numbered_lines(rows: Sequence[tuple[int, str, str]], lines: Sequence[str], where: str) -> ClassList:
    """Lines with a number at one end: a class's number where something but a space divides them, or where they count
    up; otherwise part of a name (`20 km/h`), and then the order of the lines is not trusted to be a numbering."""
    numbers = sorted(n for n, _, _ in rows)
    counts = numbers in (list(range(len(rows))), list(range(1, len(rows) + 1)))
    names = {name for _, name, _ in rows}
    if any(not gap.isspace() or "\t" in gap for _, _, gap in rows) or (counts and len(rows) > 2 and len(names) > 1):
        if len(names) == len(rows) or not counts:
            return _numbered([(n, _with(_named(_unquoted(name)))) for n, name, _ in rows], where)
        return as_list(lines, where)
    return ClassList(tuple(_named(line) for line in lines), None, where)


def _unquoted(text: str) -> str:
    text = text.strip().rstrip(",").strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _is_header(header: Sequence[str], path: Path) -> bool:
    """Whether cells head a table: a column of names, and another unless the file is called a table."""
    if not set(header) & set(_NAME):
        return False
    if len(header) == 1:
        return path.suffix.lower() in (".csv", ".tsv")
    return sum(cell in (*_NAME, *_ID, *_KEY) for cell in header) > 1


def _csv_rows(lines: Sequence[str], delimiter: str, where: str) -> list[dict[str, str]]:
    try:
        cells = list(csv.reader(StringIO("\n".join(lines), newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise InputError(f"{where}: cannot be read as CSV ({error})") from None
    header = [loosened(cell) for cell in cells[0]]
    for number, row in enumerate(cells[1:], 2):
        if len(row) != len(header):
            raise InputError(f"{where}, line {number}: has {len(row)} cells under {len(header)} of the header")
    return [dict(zip(header, row, strict=True)) for row in cells[1:]]


def _rows_of(value: Sequence[Mapping[Any, Any]]) -> list[dict[str, str]]:
    """JSON objects with fields, as rows of a table."""
    return [{loosened(str(k)): str(v) for k, v in row.items() if isinstance(v, str | int)} for row in value]


def _of_rows(rows: Sequence[Mapping[str, str]], where: str) -> ClassList:
    columns = [c for c in (rows[0] if rows else ()) if all(c in row for row in rows)]
    name = next((c for c in _NAME if c in columns), None)
    if name is None:
        raise _unknown(where)
    others = [c for c in (*_KEY, *_ID, *_NAME) if c in columns and c != name]
    ids = next((c for c in (*_ID, *_NAME) if c in others and all(number_of(row[c]) is not None for row in rows)), None)
    keys = [c for c in others if c != ids and all(number_of(row[c]) is None and row[c].strip() for row in rows)]
    entries = tuple(_with(_named(row[name]), *(row[c] for c in keys)) for row in rows)
    if ids is not None:
        return _numbered([(number_of(row[ids]), e) for row, e in zip(rows, entries, strict=True)], where)
    return ClassList(entries, None if keys else 0, where)


def _unknown(where: str) -> InputError:
    return InputError(f"{where}: is no list of class names; {_FORMS}")
