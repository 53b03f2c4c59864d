"""`wds:PATTERN`: WebDataset tar shards, `data-{000000..000009}.tar` or a glob; .jpg/.png/.webp with .cls, .json, .txt.

As images, an index (where each image's bytes lie) is held in memory; bytes are read when an image is decoded. As pairs,
even the index stays on disk (`open_parts`).
"""

from __future__ import annotations

import json
import re
import tarfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from unbackdoor.data.offsets import Add, offset_table
from unbackdoor.data.source import Label, Picture, Source, Split, one_space, read_label
from unbackdoor.data.stream import Part, Parts
from unbackdoor.errors import InputError, first_line

_IMAGES = ("jpg", "jpeg", "png", "webp")
# A header claims what it likes; what is larger is not read into memory.
_LARGEST_IMAGE, _LARGEST_TEXT = 256 << 20, 1 << 20
_DAMAGE = (tarfile.TarError, OSError, EOFError, ValueError, OverflowError)


@dataclass
class _Sample:
    shard: Path
    offset: int = -1
    size: int = 0
    label: Label = None
    caption: str | None = None


def open_source(rest: str) -> Source:
    """The source `wds:rest`."""
    shards = _expand(rest)
    return Source({"": lambda: _read(rest, shards)})


def _expand(pattern: str) -> list[Path]:
    """Brace ranges and lists as WebDataset writes them, then globs."""
    brace = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if brace:
        first, last = brace.group(1), brace.group(2)
        numbers = (str(i).zfill(len(first)) for i in range(int(first), int(last) + 1))
        return [p for n in numbers for p in _expand(pattern[: brace.start()] + n + pattern[brace.end() :])]
    listed = re.search(r"\{([^{}]*,[^{}]*)\}", pattern)
    if listed:
        words = listed.group(1).split(",")
        return [p for w in words for p in _expand(pattern[: listed.start()] + w + pattern[listed.end() :])]
    path = Path(pattern)
    if path.is_dir():
        found = sorted(path.glob("*.tar"))
    elif any(c in pattern for c in "*?["):
        found = sorted(path.parent.glob(path.name))
    else:
        found = [path] if path.is_file() else []
    if not found:
        raise InputError(f"wds:{pattern}: no such shard")
    return found


def _read(rest: str, shards: list[Path]) -> Split:
    samples: list[_Sample] = []
    for shard in shards:
        try:
            samples += _index(shard)
        except _DAMAGE as error:
            raise InputError(f"wds:{rest}: {shard.name} is not a readable tar ({first_line(error)})") from None
    with_image = [s for s in samples if s.offset >= 0]

    def picture(i: int) -> Picture:
        sample = with_image[i]
        with sample.shard.open("rb") as file:
            file.seek(sample.offset)
            return file.read(sample.size)

    captions = [s.caption or "" for s in with_image]
    return Split(one_space([s.label for s in with_image]), picture, captions if any(captions) else None)


def _index(shard: Path) -> list[_Sample]:
    """Samples of one shard, keyed by the name up to its first dot; nothing is unpacked to disk."""
    found: dict[str, _Sample] = {}
    end = shard.stat().st_size
    with shard.open("rb") as file, _opened(file) as tar:
        while (member := _next(tar)) is not None:
            if not _is_plain(member, end):
                continue
            stem, kind = _stem(member.name)
            sample = found.setdefault(stem, _Sample(shard))
            if kind in _IMAGES and member.size <= _LARGEST_IMAGE:
                sample.offset, sample.size = member.offset_data, member.size
            elif kind in ("cls", "txt", "json"):
                _annotate(sample, kind, _text(file, member))
    return list(found.values())


class _Headers:
    """A shard as `tarfile` may read it: headers alone, so that no claim makes it ask for gigabytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.name = file.name
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LARGEST_TEXT:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


def _opened(file: BinaryIO) -> tarfile.TarFile:
    return tarfile.open(fileobj=_Headers(file), mode="r:")  # type: ignore[call-overload, no-any-return]


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    member = tar.next()
    tar.members = []  # type: ignore[attr-defined]  # else tarfile remembers every header
    return member


def _is_plain(member: tarfile.TarInfo, end: int) -> bool:
    """A file whose bytes lie in the shard, as they are: links, devices and sparse files are nobody's picture."""
    return member.isreg() and not member.issparse() and 0 <= member.size <= end - member.offset_data


def _text(file: BinaryIO, member: tarfile.TarInfo) -> bytes:
    """A short member's bytes; the file's place is left as it was."""
    if member.size > _LARGEST_TEXT:
        return b""
    here = file.tell()
    file.seek(member.offset_data)
    found = file.read(member.size)
    file.seek(here)
    return found


def _annotate(sample: _Sample, kind: str, raw: bytes) -> None:
    text = raw.decode("utf-8", errors="replace").strip()
    if kind == "cls":
        sample.label = read_label(text)
    elif kind == "txt":
        sample.caption = text
    else:
        entry = _entry(text)  # none: the image may still be of use
        label = entry.get("label", entry.get("class"))
        if isinstance(label, int | str) and not isinstance(label, bool):
            sample.label = read_label(str(label))
        sample.caption = _first_caption(entry) or sample.caption


def _entry(text: str) -> dict[str, Any]:
    """A JSON object, {} where it is none."""
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _first_caption(entry: dict[str, Any]) -> str:
    caption = entry.get("caption") or entry.get("captions")
    first = caption[0] if isinstance(caption, list) and caption else caption
    return str(first) if first else ""


_BLOCK, _HELD = 8192, 64  # tables are memory maps: holding many costs next to nothing


def open_parts(rest: str) -> Parts:
    """The pairs of `wds:rest`, read from disk as they are asked for; a sample's members lie side by side.

    Left out and counted: samples without an image or a caption, and whatever is cut off or damaged.

    Raises:
        InputError: no such shard, or one that is no tar.
    """
    parts, skipped = [], 0
    for shard in _expand(rest):
        try:
            table, left_out = offset_table(shard, 4, _scan)
        except _DAMAGE as error:
            raise InputError(f"wds:{rest}: {shard.name} is not a readable tar ({first_line(error)})") from None
        skipped += left_out
        if len(table):
            name = f"{shard.name}|{shard.stat().st_size}"
            parts.append(Part(name, len(table), partial(_ShardReader, shard)))
    return Parts(parts, skipped, _BLOCK, _HELD)


class _ShardReader:
    """Pairs of one shard by their place in it; the file is opened anew for each, so that none stays open."""

    def __init__(self, shard: Path) -> None:
        self._shard, self._table = shard, offset_table(shard, 4, _scan)[0]

    def picture(self, row: int) -> Picture:
        return self._read(*self._table[row, :2].tolist())

    def caption(self, row: int) -> str:
        offset, size = self._table[row, 2:].tolist()
        text = self._read(offset, abs(size)).decode("utf-8", errors="replace").strip()
        return _first_caption(_entry(text)) if size < 0 else text

    def _read(self, offset: int, size: int) -> bytes:
        with self._shard.open("rb") as file:
            file.seek(offset)
            return file.read(size)


@dataclass
class _Pair:
    image: tuple[int, int] | None = None
    text: tuple[int, int] | None = None  # its size is negative for JSON


def _scan(shard: Path, add: Add) -> int:
    """Offset and size of image and caption of every whole sample; returns how many samples were left out."""
    end = shard.stat().st_size
    stem: str | None = None
    pair, skipped = _Pair(), 0

    def close() -> int:
        if pair.image and pair.text:
            add(*pair.image, *pair.text)
            return 0
        return 0 if stem is None else 1

    with shard.open("rb") as file, _opened(file) as tar:
        while True:
            try:
                member = _next(tar)
            except _DAMAGE:  # cut off within the member before, or a header that lies
                break
            if member is None:
                break
            if not member.isreg():
                continue
            found, kind = _stem(member.name)
            if found != stem:
                skipped += close()
                stem, pair = found, _Pair()
            if _is_plain(member, end):
                _note(file, member, kind, pair)
        # Damage may have hit the last sample itself, which is not to be counted twice.
        return skipped + max(close(), _damaged(shard, tar.offset, end))


def _stem(name: str) -> tuple[str, str]:
    """Key of a member's sample, up to the first dot of its name, and the kind of the member."""
    folder, _, file = name.rpartition("/")
    stem, _, kind = file.partition(".")
    return f"{folder}/{stem}", kind.lower()


def _note(file: BinaryIO, member: tarfile.TarInfo, kind: str, pair: _Pair) -> None:
    place = member.offset_data, member.size
    if kind in _IMAGES and 0 < member.size <= _LARGEST_IMAGE:
        pair.image = place
    elif kind in ("txt", "json"):
        text = _text(file, member).decode("utf-8", errors="replace").strip()
        if kind == "txt" and text:
            pair.text = place
        elif kind == "json" and pair.text is None and _first_caption(_entry(text)):
            pair.text = place[0], -place[1]


def _damaged(shard: Path, offset: int, end: int) -> int:
    """1 where the walk stopped before a block that is not the archive's end: what follows cannot be told apart."""
    with shard.open("rb") as file:
        file.seek(min(offset, end))
        return int(any(file.read(512)))
