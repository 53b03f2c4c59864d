"""Reading files of strangers: regular files alone, a bounded number of bytes, and nothing in them that explodes.

This module checks once what a file says of itself: that it is a file and no device, that it lies where it may, that its
JSON or YAML is no deeper, longer or larger than any sound one, and that it has the fields and types that the caller
needs. Every refusal is an `InputError` of one line.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from unbackdoor.base.errors import InputError, first_line

T = TypeVar("T")
CONFIG_BYTES = 16 << 20  # of a configuration, a recipe, a finding, a list of names
DEEPEST = 64  # levels of nesting
# transformers writes 10³⁰ (31 digits) where a length has no limit.
_LONGEST_NUMBER = 40
# How JSON writes half of a pair of UTF-16: no file's name, no token and no line of output can hold one alone.
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_MOST_NODES = 1_000_000  # of a YAML document once its aliases are written out
# Windows keeps these names for devices, whatever follows the first dot.
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
_FILE_NAME = re.compile(r"[\w+=,@%() -][\w.+=,@%() -]{0,99}")


def read_bytes(path: Path, limit: int, *, inside: Path | None = None) -> bytes:
    """The content of a regular file.

    Args:
        limit: most bytes that it may have.
        inside: folder that it must lie in, links followed; None lets it lie anywhere.

    Raises:
        InputError: there is none, it lies elsewhere, is larger, or is a folder, a device, a pipe or a socket.
    """
    with open_regular(path, inside=inside) as (file, size):
        try:
            content = file.read(limit + 1) if size <= limit else b""
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or first_line(error)}") from None
    if size > limit or len(content) > limit:
        raise InputError(f"{path}: has more than {limit:,} bytes, which is too many for what it should be")
    return content


@contextmanager
def open_regular(path: Path, *, inside: Path | None = None) -> Iterator[tuple[BinaryIO, int]]:
    """A regular file, open for reading, and its bytes.

    Raises:
        InputError: as `read_bytes`, but for the size.
    """
    if inside is not None:
        check_inside(path, inside)
    try:
        file = open(path, "rb", opener=_at_once)  # noqa: SIM115
        status = os.fstat(file.fileno())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or first_line(error)}") from None
    except ValueError:  # a name with a NUL
        raise InputError(f"{path}: is no file's name") from None
    with file:
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: is no regular file; give a file")
        yield file, status.st_size


def _at_once(path: str, flags: int) -> int:
    """Open without waiting: a pipe would be waited for, were it opened as a file is."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def check_regular(path: Path, limit: int) -> int:
    """Bytes of a regular file that is to be read in pieces.

    Raises:
        InputError: as `read_bytes`.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or first_line(error)})") from None
    except ValueError:  # a name with a NUL
        raise InputError(f"{path}: is no file's name") from None
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: is no regular file; give a file")
    if status.st_size > limit:
        raise InputError(f"{path}: has more than {limit:,} bytes, which is too many for what it should be")
    return status.st_size


def check_inside(path: Path, folder: Path) -> None:
    """Whether a path, links followed, lies in a folder.

    Raises:
        InputError: it does not.
    """
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # a loop of links, a name with a NUL
        inside = False
    if not inside:
        raise InputError(f"{path}: lies outside {folder}; it is not read")


def is_there(path: Path) -> bool:
    """Whether there is something of this name; False for what can be no name."""
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def read_text(path: Path, limit: int = CONFIG_BYTES, *, inside: Path | None = None) -> str:
    """A text file in UTF-8, a byte order mark left out.

    Raises:
        InputError: as `read_bytes`; another encoding.
    """
    try:
        return read_bytes(path, limit, inside=inside).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text in UTF-8 (byte {error.start}); save it as UTF-8") from None


def parse_json(text: str | bytes, what: str, *, unique: bool = False) -> Any:
    """JSON of a stranger: no deeper than `DEEPEST` levels, no endless numbers, no NaN, no half characters.

    Args:
        what: where it stands, for the error.
        unique: refuse an object that has a key twice, of which two readers could take either.

    Raises:
        InputError: it is none.
    """
    try:
        hook = _once if unique else None
        value = json.loads(
            text, parse_int=_whole, parse_float=_finite, parse_constant=_constant, object_pairs_hook=hook
        )
    except RecursionError:
        raise InputError(f"{what}: JSON nested deeper than {DEEPEST} levels") from None
    except ValueError as error:
        raise InputError(f"{what}: not readable JSON ({first_line(error)})") from None
    if _depth(value) > DEEPEST:
        raise InputError(f"{what}: JSON nested deeper than {DEEPEST} levels")
    source = text if isinstance(text, str) else text.decode("utf-8", "replace")
    if _HALF.search(source) and any(isinstance(item, str) and not _is_text(item) for item in _all(value)):
        raise InputError(f"{what}: JSON with half of a character, which no text holds")
    return value


def read_json(path: Path, limit: int = CONFIG_BYTES, *, inside: Path | None = None) -> dict[str, Any]:
    """A file that holds one JSON object.

    Raises:
        InputError: as `read_bytes` and `parse_json`; another value than an object.
    """
    value = parse_json(read_text(path, limit, inside=inside), str(path))
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds no JSON object")
    return value


def read_json_lines(path: Path, limit: int = CONFIG_BYTES, *, inside: Path | None = None) -> Iterator[Any]:
    """The values of a file with one of them on each line; empty lines are passed over.

    Raises:
        InputError: as `read_bytes` and `parse_json`, which names the line.
    """
    for number, line in enumerate(read_text(path, limit, inside=inside).splitlines(), 1):
        if line.strip():
            yield parse_json(line, f"{path}, line {number}")


def read_yaml(path: Path, limit: int = CONFIG_BYTES, *, inside: Path | None = None) -> Any:
    """A YAML document of plain values; aliases may not make it larger than a million nodes.

    Raises:
        InputError: as `read_bytes`; no YAML, nested deeper than `DEEPEST` levels, too large, or with a number that is
            not finite or endless.
    """
    import yaml

    text = read_text(path, limit, inside=inside)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        # Events come one by one; nodes and values are made by functions that call themselves.
        depth = 0
        for event in yaml.parse(text, loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise InputError(f"{path}: YAML nested deeper than {DEEPEST} levels")
        node = yaml.compose(text, loader)
        if node is not None and _nodes(node, {}) > _MOST_NODES:
            raise InputError(f"{path}: YAML with more than {_MOST_NODES:,} nodes once its aliases are written out")
        value = yaml.load(text, loader)
        _check_numbers(value)
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError, TypeError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())[:160]})") from None
    return value


def as_type(value: Any, kind: type[T], what: str) -> T:
    """A value that was read from a file as a dataclass or any other type, checked field by field.

    Args:
        value: what `parse_json` and its like return.
        kind: a dataclass (further keys are passed over), or any type that `msgspec` knows.

    Raises:
        InputError: a field is missing or of another type; the line names it.
    """
    import msgspec

    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError, OverflowError) as error:
        # `$.trigger.spec` is how msgspec points at a field.
        raise InputError(f"{what}: {first_line(error).replace('$.', '').replace('`', '')}") from None
    except (TypeError, ValueError) as error:  # a dataclass's own check
        raise InputError(f"{what}: {first_line(error)}") from None


def file_name(text: str, what: str) -> str:
    """A stranger's name that is to become part of a file's name: letters, digits, spaces and `_ . + = , @ % ( ) -`.

    Raises:
        InputError: it holds other characters, begins with a dot, is longer than 100, or is a device's on Windows.
    """
    if not _FILE_NAME.fullmatch(text) or text.endswith((" ", ".")) or _DEVICES.fullmatch(text):
        raise InputError(
            f"{what} {text[:100]!r}: becomes a file's name; use letters, digits, spaces and _ . + = , @ % ( ) - alone, "
            "without a dot at either end"
        )
    return text


def _whole(text: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:20]} is too large")
    return number


def _check_numbers(value: Any) -> None:
    """Refuse what is no sound JSON either, in YAML that is no larger than `read_yaml` lets pass."""
    for item in _all(value):
        if isinstance(item, float) and not math.isfinite(item):
            raise ValueError(f"the number {item} is not finite")
        if isinstance(item, int) and abs(item) >= 10**_LONGEST_NUMBER:
            raise ValueError("a whole number without end")
        if isinstance(item, str) and not _is_text(item):
            raise ValueError("half of a character, which no text holds")


def _all(value: Any) -> Iterator[Any]:
    """What a value holds, keys too, at any depth."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple):
            waiting += item
        else:
            yield item


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _constant(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice")
    return table


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level and depth <= DEEPEST:
        depth += 1
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return depth


def _nodes(node: Any, counted: dict[int, int]) -> int:
    """Nodes below one, aliases written out; a node within itself counts as too many."""
    known = counted.get(id(node))
    if known is not None:
        return known
    counted[id(node)] = _MOST_NODES + 1  # while it is open
    total = 1
    if isinstance(node.value, list):
        for item in node.value:
            total += sum(_nodes(part, counted) for part in (item if isinstance(item, tuple) else (item,)))
    counted[id(node)] = total
    return total
