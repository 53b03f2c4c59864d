"""Where the members of a zip archive lie, read strictly: one description, complete, and true of the file.

Archives can be written so that two readers see two things: members described twice, bytes shared by several, sizes that
a decompressor would fill, a second directory, bytes before the first member. All of that is refused. The format:
APPNOTE.TXT 6.3 of PKWARE, sections 4.3.7, 4.3.12 and 4.3.14 to 4.3.16.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from unbackdoor.base.errors import InputError

_LOCAL, _CENTRAL, _END = struct.Struct("<4s22xHH"), struct.Struct("<4s4xHH8xLLHHHH6xL"), struct.Struct("<4sHHHHLLH")
_END64, _LOCATOR = struct.Struct("<4sQ4xLLQQQQ"), struct.Struct("<4sLQL")
_LARGEST_DIRECTORY = 32 << 20  # bytes; 100,000 tensors need 8 MB
_STORED, _DEFLATED, _ENCRYPTED = 0, 8, 1


@dataclass(frozen=True)
class Member:
    """One member.

    Args:
        start: its first byte in the file.
        size: bytes in the file.
        whole: bytes once decompressed; the same as `size` where nothing is compressed.
    """

    start: int
    size: int
    whole: int
    compressed: bool


def is_zip(path: Path) -> bool:
    """Whether a file begins as a zip archive does."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def read_members(path: Path) -> dict[str, Member]:
    """Every member by name, in the order of their bytes.

    Raises:
        InputError: not a sound archive, or one that says more than one thing.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        try:
            start, size, count = _directory(file)
            file.seek(start)
            entries = sorted(_entries(file.read(size), count))
            return dict(_placed(file, entries, start))
        except struct.error:
            raise InputError(f"{path}: not a sound zip archive: it ends too soon; fetch it again") from None
        except ValueError as error:
            raise InputError(f"{path}: not a sound zip archive: {error}; fetch it again") from None


def _directory(file: IO[bytes]) -> tuple[int, int, int]:
    """First byte and size of the directory, and how many members it has."""
    whole = file.seek(0, os.SEEK_END)
    end = whole - _END.size
    if end < 0:
        raise ValueError("it is too short")
    file.seek(end)
    magic, disk, first_disk, here, count, size, start, comment = _END.unpack(file.read(_END.size))
    if magic != b"PK\x05\x06" or comment or disk or first_disk or here != count:
        raise ValueError("it does not end in a directory of its own")
    if end >= _LOCATOR.size:
        file.seek(end - _LOCATOR.size)
        magic, disk, at, disks = _LOCATOR.unpack(file.read(_LOCATOR.size))
        if magic == b"PK\x06\x07":
            if disk or disks > 1 or at + _END64.size != end - _LOCATOR.size:
                raise ValueError("its directory is not where it says")
            file.seek(at)
            magic, length, disk, first_disk, here64, count64, size64, start64 = _END64.unpack(file.read(_END64.size))
            agrees = (count in (0xFFFF, count64), size in (2**32 - 1, size64), start in (2**32 - 1, start64))
            sound = magic == b"PK\x06\x06" and length == _END64.size - 12 and not disk and not first_disk
            if not sound or here64 != count64 or not all(agrees):
                raise ValueError("it has two directories that do not agree")
            count, size, start, end = count64, size64, start64, at
    if start + size != end:
        raise ValueError("its directory is not where it says")
    if size > _LARGEST_DIRECTORY:
        raise ValueError(f"a directory of {size:,} bytes")
    return start, size, count


def _entries(directory: bytes, count: int) -> list[tuple[int, str, Member]]:
    """(offset of the member's own header, name, member still without its place)."""
    entries, at, names = [], 0, set()
    while at < len(directory):
        magic, flags, method, size, whole, name_length, extra_length, note, disk, header = _CENTRAL.unpack_from(
            directory, at
        )
        at += _CENTRAL.size
        name = directory[at : at + name_length].decode("utf-8")
        extra = directory[at + name_length : at + name_length + extra_length]
        at += name_length + extra_length + note
        whole, size, header = _widened(extra, (whole, size, header))
        if magic != b"PK\x01\x02" or at > len(directory) or disk:
            raise ValueError("a damaged directory")
        if name in names:
            raise ValueError(f"it describes {name[:60]!r} twice")
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise ValueError(f"{name[:60]!r} would lie outside of it")
        names.add(name)
        if flags & _ENCRYPTED or method not in (_STORED, _DEFLATED):
            raise ValueError(f"{name[:60]!r} is encrypted, or packed in a way that torch does not know")
        if method == _STORED and size != whole:
            raise ValueError(f"{name[:60]!r} has two sizes")
        entries.append((header, name, Member(0, size, whole, method != _STORED)))
    if len(entries) != count:
        raise ValueError(f"{len(entries)} members where it counts {count}")
    return entries


def _widened(extra: bytes, values: tuple[int, int, int]) -> tuple[int, int, int]:
    """Sizes and offset that do not fit into 32 bits stand in a field of their own, in this order."""
    at, wide = 0, iter(())
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
        at += 4 + length
    numbers = tuple(next(wide, None) if value == 2**32 - 1 else value for value in values)
    if None in numbers:
        raise ValueError("a member without its size")
    return numbers  # type: ignore[return-value]


def _placed(file: IO[bytes], entries: list[tuple[int, str, Member]], limit: int) -> list[tuple[str, Member]]:
    """Members with their places, which their own headers complete; none reaches into another."""
    placed, free = [], 0
    for header, name, member in entries:
        file.seek(header)
        magic, name_length, extra_length = _LOCAL.unpack(file.read(_LOCAL.size))
        if header < free or magic != b"PK\x03\x04" or file.read(name_length) != name.encode("utf-8"):
            raise ValueError(f"{name[:60]!r} lies where another member does, or where none is")
        start = header + _LOCAL.size + name_length + extra_length
        free = start + member.size
        if free > limit:
            raise ValueError(f"{name[:60]!r} is longer than the file")
        placed.append((name, Member(start, member.size, member.whole, member.compressed)))
    if entries and entries[0][0] != 0:
        raise ValueError("bytes before its first member")
    return placed
