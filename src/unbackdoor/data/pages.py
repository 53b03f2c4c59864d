"""What a column of a Parquet file takes in memory, computed from its page headers before anything is unpacked.

A footer can lie. So the headers of all pages of a column chunk are read, which costs next to nothing, and the longest
value of a dictionary: many rows that name one long value take much memory.
Page headers: https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from unbackdoor.base.errors import InputError, first_line
from unbackdoor.data.footer import Chunk
from unbackdoor.data.thrift import Reader, Struct

LARGEST_PAGE = 128 << 20  # unpacked; a picture is at most as large
_LARGEST_HEADER = 1 << 20
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3  # PageType
_PLAIN_DICTIONARY, _DELTA_BYTE_ARRAY, _RLE_DICTIONARY = 2, 7, 8  # Encoding
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}


@dataclass(frozen=True)
class Cost:
    """Of a column chunk: values, the largest that one can be, and bytes of all together, unpacked."""

    values: int
    largest: int
    total: int


@dataclass(frozen=True)
class _Page:
    kind: int
    unpacked: int
    packed: int
    values: int
    encoding: int
    offset: int  # of its content


def chunk_cost(path: Path, chunk: Chunk) -> Cost:
    """What a column chunk becomes.

    Raises:
        InputError: headers that are none, a page beyond `LARGEST_PAGE`, or values that are stored as differences.
    """
    what = f"{path}: column {'.'.join(chunk.path)!r}"
    values = largest = total = 0
    longest = 0  # in the dictionary
    width = chunk.width or _WIDTHS.get(chunk.kind, 0)
    with path.open("rb") as file:
        for page in _pages(what, file, chunk.start, chunk.packed):
            if page.unpacked > LARGEST_PAGE:
                raise InputError(f"{what}: has a page of {page.unpacked >> 20} MiB; write it with pages of at most 128")
            if page.kind == _DICTIONARY:
                longest = width or _longest(what, file, page, chunk.codec)
                largest, total = max(largest, longest), total + page.unpacked
                continue
            values += page.values
            if page.encoding in (_PLAIN_DICTIONARY, _RLE_DICTIONARY):
                total += page.values * longest
            elif page.encoding == _DELTA_BYTE_ARRAY:
                raise InputError(f"{what}: is packed as DELTA_BYTE_ARRAY, which is not read; write it plainly")
            else:
                total += max(page.unpacked, page.values * width)
                largest = max(largest, page.unpacked)
    if chunk.values > values:
        raise InputError(f"{what}: claims {chunk.values:,} values, but its pages have {values:,}")
    return Cost(values, largest, total + 8 * values)


def _pages(what: str, file: BinaryIO, start: int, size: int) -> Iterator[_Page]:
    at, end = start, start + size
    while at < end:
        header, content = _header(what, file, at, end)
        unpacked, packed = header.get(2), header.get(3)
        if not (
            isinstance(unpacked, int) and isinstance(packed, int) and unpacked >= 0 and 0 <= packed <= end - content
        ):
            raise InputError(f"{what}: a page claims bytes that are not there; the file is damaged")
        kind = header.get(1)
        about = header.get({_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}.get(kind, 0) if isinstance(kind, int) else 0)
        if isinstance(about, dict) and isinstance(kind, int):
            # Version 2 tells nulls and rows before the encoding.
            count, encoding = about.get(1), about.get(4 if kind == _DATA_V2 else 2)
            if not isinstance(count, int) or not isinstance(encoding, int) or count < 0:
                raise InputError(f"{what}: a page does not say how many values it has; the file is damaged")
            yield _Page(kind, unpacked, packed, count, encoding, content)
        elif unpacked > LARGEST_PAGE:
            raise InputError(f"{what}: has a page of {unpacked >> 20} MiB that is none of data")
        at = content + packed


def _header(what: str, file: BinaryIO, at: int, end: int) -> tuple[Struct, int]:
    """A page's header, and where its content begins."""
    size = 4096
    while True:
        file.seek(at)
        raw = file.read(min(size, end - at))
        reader = Reader(raw)
        try:
            return reader.struct(), at + reader.at
        except EOFError:
            if size >= min(_LARGEST_HEADER, end - at):
                raise InputError(f"{what}: has no readable pages; the file is damaged") from None
            size *= 16
        except ValueError as error:
            raise InputError(f"{what}: has no readable pages ({first_line(error)}); the file is damaged") from None


def _longest(what: str, file: BinaryIO, page: _Page, codec: str) -> int:
    """The longest value of a dictionary of texts: each stands behind its length, 4 bytes with the lowest first."""
    import pyarrow as pa

    file.seek(page.offset)
    raw = file.read(page.packed)
    if codec != "uncompressed":
        try:
            raw = pa.Codec(codec).decompress(raw, decompressed_size=page.unpacked, asbytes=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{what}: cannot be unpacked ({first_line(error)})") from None
    at = longest = 0
    for _ in range(page.values):
        if at + 4 > len(raw):
            raise InputError(f"{what}: has a dictionary that is cut off; the file is damaged")
        size = int.from_bytes(raw[at : at + 4], "little")
        longest, at = max(longest, size), at + 4 + size
    return longest
