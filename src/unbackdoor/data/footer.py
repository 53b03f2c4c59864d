"""The footer of a Parquet file, read before Arrow sees it: Arrow ends the process over some that are damaged.

This module checks what Arrow takes for granted: every row group has the columns of the schema, of its types, and they
lie in the file. https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unbackdoor.base.errors import InputError, first_line
from unbackdoor.base.untrusted import check_regular
from unbackdoor.data.thrift import Reader

_LARGEST = 1 << 44
_LARGEST_FOOTER = 64 << 20
_FREE_ROWS = 100_000  # beyond these, a row takes a byte of the file at least
_MOST_COLUMNS = 10_000
_DEEPEST = 64
_TYPES = ("BOOLEAN", "INT32", "INT64", "INT96", "FLOAT", "DOUBLE", "BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")
# As Arrow calls them; LZO is of nobody's.
_CODECS = {0: "uncompressed", 1: "snappy", 2: "gzip", 4: "brotli", 5: "lz4", 6: "zstd", 7: "lz4_raw"}


@dataclass(frozen=True)
class Chunk:
    """A column of a row group.

    Args:
        path: names from the column down to the value.
        kind: physical type, such as BYTE_ARRAY.
        width: bytes of a value of fixed length, 0 of others.
        codec: as Arrow calls it.
        values: how many it claims.
        start: of its first page in the file.
        packed: bytes of its pages.
    """

    path: tuple[str, ...]
    kind: str
    width: int
    codec: str
    values: int
    start: int
    packed: int


@dataclass(frozen=True)
class Group:
    """A row group."""

    rows: int
    chunks: tuple[Chunk, ...]


def read_footer(path: Path) -> tuple[Group, ...]:
    """The row groups of a file.

    Raises:
        InputError: no regular file, no Parquet, encrypted, damaged, or more rows or bytes than can be in it.
    """
    size = check_regular(path, _LARGEST)
    try:
        with path.open("rb") as file:
            raw = file.read(4)
            file.seek(max(0, size - 8))
            tail = file.read(8)
            length = int.from_bytes(tail[:4], "little")
            if size < 12 or raw != b"PAR1" or tail[4:] != b"PAR1":
                raise InputError(f"{path}: is no Parquet file, or encrypted or cut off")
            if length > min(size - 12, _LARGEST_FOOTER):
                raise InputError(f"{path}: claims a footer of {length:,} bytes; the file is damaged")
            file.seek(size - 8 - length)
            footer = Reader(file.read(length)).struct()
        return tuple(_groups(footer, size))
    except InputError:
        raise
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({first_line(error)})") from None


def _groups(footer: dict[int, Any], size: int) -> Iterator[Group]:
    leaves = _leaves(_list(footer, 2))
    rows = packed = 0
    for group in _list(footer, 4):
        columns = _list(_struct(group), 1)
        if len(columns) != len(leaves):
            raise ValueError(f"a row group has {len(columns)} of {len(leaves)} columns")
        chunks = tuple(
            _chunk(_struct(_struct(c).get(3)), _struct(c), leaf, size) for c, leaf in zip(columns, leaves, strict=True)
        )
        count = _number(group, 3)
        rows, packed = rows + count, packed + sum(chunk.packed for chunk in chunks)
        if any(chunk.values < count for chunk in chunks):  # a list has more values than rows, never fewer
            raise ValueError("a column has fewer values than rows")
        yield Group(count, chunks)
    if rows != _number(footer, 3) or rows > size + _FREE_ROWS:
        raise ValueError(f"claims {max(rows, _number(footer, 3)):,} rows in {size:,} bytes")
    if packed > size:  # the same pages again and again
        raise ValueError(f"its columns claim {packed:,} of {size:,} bytes")


def _leaves(schema: list[Any]) -> list[tuple[tuple[str, ...], str, int]]:
    """Path, type and fixed length of every column that holds values; the schema lists a tree from the root down."""
    if not 1 <= len(schema) <= _MOST_COLUMNS:
        raise ValueError(f"a schema of {len(schema)} elements")
    leaves = []
    open_: list[tuple[tuple[str, ...], int]] = []  # path and children to come, of those that are not closed
    for place, item in enumerate(schema):
        element = _struct(item)
        name, children = _text(element.get(4)), element.get(5, 0)
        if not isinstance(children, int) or not 0 <= children <= len(schema):
            raise ValueError("a schema that is no tree")
        path: tuple[str, ...] = ()
        if place:
            while open_ and not open_[-1][1]:
                open_.pop()
            if not open_ or len(open_) > _DEEPEST:
                raise ValueError("a schema that is no tree")
            above, due = open_[-1]
            open_[-1] = above, due - 1
            path = (*above, name)
        if children or not place:
            open_.append((path, children))
            continue
        width = element.get(2, 0)
        if not isinstance(width, int) or width < 0:
            raise ValueError("a length below nought")
        leaves.append((path, _TYPES[_number(element, 1, len(_TYPES) - 1)], width))
    if any(due for _, due in open_):
        raise ValueError("a schema that is no tree")
    return leaves


def _chunk(about: dict[int, Any], place: dict[int, Any], leaf: tuple[tuple[str, ...], str, int], size: int) -> Chunk:
    path, kind, width = leaf
    if place.get(1):
        raise ValueError("a column in another file")
    if tuple(_text(part) for part in _list(about, 3)) != path or _TYPES[_number(about, 1, len(_TYPES) - 1)] != kind:
        raise ValueError("a column that the schema does not have there")
    codec = _CODECS.get(_number(about, 4))
    if codec is None:
        raise ValueError(f"a column packed by codec {_number(about, 4)}")
    packed, start = _number(about, 7, size), _number(about, 9, size)
    dictionary = about.get(11, 0)
    if isinstance(dictionary, int) and 0 < dictionary < start:
        start = dictionary
    if start + packed > size:
        raise ValueError("a column that is not in the file")
    return Chunk(path, kind, width, codec, _number(about, 5), start, packed)


def _struct(value: Any) -> dict[int, Any]:
    if not isinstance(value, dict):
        raise ValueError("something is missing")
    return value


def _list(struct: dict[int, Any], field: int) -> list[Any]:
    value = struct.get(field)
    if not isinstance(value, list):
        raise ValueError("something is missing")
    return value


def _number(struct: dict[int, Any], field: int, most: int = 1 << 62) -> int:
    value = struct.get(field)
    if not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError("a number is missing, or cannot be")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, bytes):
        raise ValueError("a name is missing")
    return value.decode("utf-8")
