"""`wds:PATTERN`: WebDataset tar shards, `data-{000000..000009}.tar` or a glob; pictures with .cls, .json, .txt.

A sample's members share their name up to its first dot, as WebDataset has it; where names have dots of their own, up to
the last one (`_samples`). As images, an index (where each image's bytes lie) is held in memory; bytes are read when an
image is decoded. As pairs, even the index stays on disk (`open_parts`).
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from unbackdoor.base.errors import InputError, first_line
from unbackdoor.base.untrusted import parse_json
from unbackdoor.data.captions import Captions, entry_captions, lines_of, sentences_of
from unbackdoor.data.offsets import Add, offset_table
from unbackdoor.data.omissions import Omissions
from unbackdoor.data.source import LARGEST_IMAGE, Label, Picture, Source, SourceKind, Split, one_space, read_label
from unbackdoor.data.stream import Part, Parts

_IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "ppm", "tif", "tiff")
_TEXTS = ("cls", "txt", "json")
_LABELS = ("label_name", "class_name", "label", "class", "cls", "category", "target")
# A header can claim anything; a member that claims more is not read.
_LARGEST_TEXT = 1 << 20
_MOST_SHARDS = 100_000
_MOST_WAITING = 100_000  # samples of a shard whose members do not lie side by side
_DAMAGE = (tarfile.TarError, OSError, EOFError, ValueError, OverflowError)
Place = tuple[int, int]  # offset and size


@dataclass
class _Group:
    """Members that share their name up to its first dot: (name up to the last dot, kind, place)."""

    members: list[tuple[str, str, Place]] = field(default_factory=list)


@dataclass
class _Sample:
    name: str
    image: Place
    texts: dict[str, Place]


def open_source(rest: str) -> Source:
    """The source `wds:rest`.

    Raises:
        InputError: no such shard.
    """
    shards = _expand(rest)
    return Source({"": lambda: _read(rest, shards)})


def _expand(pattern: str) -> list[Path]:
    """Brace ranges and lists as WebDataset writes them, then globs."""
    patterns = [pattern]
    while any("{" in p for p in patterns):
        grown = [q for p in patterns for q in _braces(pattern, p)]
        if len(grown) > _MOST_SHARDS:
            raise InputError(f"wds:{pattern}: names more than {_MOST_SHARDS:,} shards; give fewer")
        if grown == patterns:
            break
        patterns = grown
    return [shard for p in patterns for shard in _matching(p)]


def _braces(whole: str, pattern: str) -> list[str]:
    """A pattern with its first brace written out."""
    brace = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)
    if brace is None:
        return [pattern]
    first, last, listed = brace.groups()
    if listed is not None:
        words = listed.split(",")
    elif len(last) > 9 or len(first) > 9 or int(last) - int(first) >= _MOST_SHARDS:
        raise InputError(f"wds:{whole}: names more than {_MOST_SHARDS:,} shards; give fewer")
    else:
        words = [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
    return [pattern[: brace.start()] + word + pattern[brace.end() :] for word in words]


def _matching(pattern: str) -> list[Path]:
    path = Path(pattern)
    try:
        if path.is_dir():
            shards = sorted(path.glob("*.tar"))
        elif any(c in pattern for c in "*?["):
            shards = sorted(path.parent.glob(re.sub(r"\*+", "*", path.name)))
        else:
            shards = [path]
        # A Mac leaves a file `._s.tar` beside every s.tar.
        shards = [p for p in shards if p.is_file() and not p.name.startswith("._")]
    except (OSError, ValueError, re.error) as error:
        raise InputError(f"wds:{pattern[:200]}: cannot be looked for ({first_line(error)})") from None
    if not shards:
        raise InputError(f"wds:{pattern}: no such shard")
    return shards


def _read(rest: str, shards: list[Path]) -> Split:
    images: list[tuple[Path, Place]] = []
    names, labels, captions = list[str](), list[Label](), list[Captions]()
    omissions = Omissions()
    for shard in shards:
        try:
            groups = _index(shard, omissions)
            with shard.open("rb") as file:
                for key, group in groups.items():
                    for sample in _samples(key, group, omissions):
                        images.append((shard, sample.image))
                        names.append(sample.name)
                        label, caption = _annotation(file, sample, omissions)
                        labels.append(label)
                        captions.append(caption)
        except _DAMAGE as error:
            raise InputError(f"wds:{rest}: {shard.name} {_why(shard, error)}") from None

    def picture(i: int) -> Picture:
        shard, place = images[i]
        with shard.open("rb") as file:
            return _bytes(file, place)

    texts = captions if any(captions) else None
    return Split(one_space(labels), picture, texts, omissions.notes(), lambda i: names[i])


def _why(shard: Path, error: BaseException) -> str:
    """What is wrong with a shard that is no tar."""
    with shard.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if packed:
        return "is packed with gzip, which lets no picture be read without those before it; unpack it with gunzip"
    return f"is not a readable tar ({first_line(error)})"


def _index(shard: Path, omissions: Omissions) -> dict[str, _Group]:
    """Samples of one shard in the order of their first members; nothing is unpacked to disk."""
    groups: dict[str, _Group] = {}
    end = shard.stat().st_size
    with shard.open("rb") as file, _opened(file) as tar:
        while (member := _next(tar)) is not None:
            if not member.isreg():
                if not member.isdir():
                    omissions.add("members that are no files", member.name)
                continue
            if _is_litter(member.name):
                omissions.add("hidden members", member.name)
                continue
            _note(groups, member, end)
    return groups


def _note(groups: dict[str, _Group], member: tarfile.TarInfo, end: int) -> str:
    """Add a member to its sample; returns the sample's key. What cannot be used is of no kind."""
    key, stem, kind = _key(member.name)
    kind = "image" if kind in _IMAGES else kind
    largest = LARGEST_IMAGE if kind == "image" else _LARGEST_TEXT
    usable = _is_plain(member, end) and member.size <= largest and (kind == "image" or kind in _TEXTS)
    place = (member.offset_data, member.size)
    groups.setdefault(key, _Group()).members.append((stem, kind if usable else "", place))
    return key


def _key(name: str) -> tuple[str, str, str]:
    """Of a member's name: all up to the first dot of its last part, all up to the last one, and the ending."""
    folder, _, file = name.removeprefix("./").rpartition("/")
    stem, _, kind = file.rpartition(".")
    return f"{folder}/{file.partition('.')[0]}", f"{folder}/{stem}", kind.lower()


def _is_litter(name: str) -> bool:
    """Hidden, or what a Mac packs beside every file."""
    parts = name.split("/")
    return "__MACOSX" in parts or any(part.startswith(".") and part not in (".", "..") for part in parts)


def _samples(key: str, group: _Group, omissions: Omissions) -> Iterator[_Sample]:
    """Pictures of a group with the texts that are theirs.

    A picture's texts share its name up to the last dot. The only picture of a group may have a dot more than they have
    (`a.final.jpg` with `a.cls`), which is WebDataset's rule; of two pictures (`a.left.jpg`, `a.right.jpg`) nobody can
    tell whose such texts are.
    """
    images: dict[str, Place] = {}
    texts: dict[str, dict[str, Place]] = {}
    for stem, kind, place in group.members:
        if kind == "image":
            images[stem] = place
        elif kind:
            texts.setdefault(stem, {})[kind] = place
    for stem, place in images.items():
        own = texts.get(stem, {})
        if len(images) == 1:
            own = {**texts.get(key, {}), **own}
        elif not own and texts and stem != key:
            omissions.add("pictures beside others of one sample, of which its label may not speak", stem.lstrip("/"))
            continue
        yield _Sample(stem.lstrip("/"), place, own)
    if not images:
        omissions.add("samples without a picture", key.lstrip("/"))


def _annotation(file: BinaryIO, sample: _Sample, omissions: Omissions) -> tuple[Label, Captions]:
    """Label and captions of a sample; an object that is none leaves both open."""
    entry: dict[str, Any] = {}
    if "json" in sample.texts:
        try:
            entry = _entry(_bytes(file, sample.texts["json"]))
        except InputError:
            omissions.add("objects that cannot be read; their pictures stay", f"{sample.name}.json")
    label = _entry_label(entry)
    if "cls" in sample.texts:
        label = read_label(_decoded(_bytes(file, sample.texts["cls"])))
    text = lines_of(_decoded(_bytes(file, sample.texts["txt"]))) if "txt" in sample.texts else ""
    return label, max(text, entry_captions(entry), key=lambda c: len(sentences_of(c)))


def _entry(raw: bytes) -> dict[str, Any]:
    """The JSON object of a sample; a list is one of captions.

    Raises:
        InputError: no JSON.
    """
    value = parse_json(_decoded(raw), "a sample")
    return value if isinstance(value, dict) else {"captions": value if isinstance(value, list) else None}


def _entry_label(entry: dict[str, Any]) -> Label:
    value = next((entry[name] for name in _LABELS if entry.get(name) is not None), None)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return read_label(str(value)) if isinstance(value, int | float | str) and not isinstance(value, bool) else None


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", errors="replace").lstrip("\ufeff").strip()


def _bytes(file: BinaryIO, place: Place) -> bytes:
    file.seek(place[0])
    return file.read(place[1])


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


_BLOCK, _HELD = 8192, 64  # tables are memory maps: holding many costs next to nothing


def open_parts(rest: str) -> Parts:
    """The pairs of `wds:rest`, read from disk as they are asked for.

    Left out and counted: samples without an image or a caption, and those that are cut off or damaged.

    Raises:
        InputError: no such shard, or one that is no tar.
    """
    parts, skipped = [], 0
    for shard in _expand(rest):
        try:
            table, count = offset_table(shard, 4, _scan)
        except _DAMAGE as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"wds:{rest}: {shard.name} {_why(shard, error)}") from None
        skipped += count
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

    def captions(self, row: int) -> Captions:
        offset, size = self._table[row, 2:].tolist()
        return _text_captions(self._read(offset, abs(size)), "json" if size < 0 else "txt")

    def _read(self, offset: int, size: int) -> bytes:
        with self._shard.open("rb") as file:
            return _bytes(file, (offset, size))


def _text_captions(raw: bytes, kind: str) -> Captions:
    """Captions of a text member, "" of an object that cannot be read."""
    if kind == "txt":
        return lines_of(_decoded(raw))
    try:
        return entry_captions(_entry(raw))
    except InputError:
        return ""


def _scan(shard: Path, add: Add) -> int:
    """Offset and size of image and caption of every whole sample; returns how many samples were left out.

    Members of a sample mostly lie side by side. A sample that is not whole where they end waits for more of them.
    """
    end = shard.stat().st_size
    current: dict[str, _Group] = {}
    waiting: dict[str, _Group] = {}
    skipped = 0

    with shard.open("rb") as file, _opened(file) as tar:

        def close() -> int:
            """Add the current sample's pairs; where one lacks something, the whole sample waits."""
            for key, group in current.items():
                whole = _Group([*waiting.pop(key, _Group()).members, *group.members])
                here = file.tell()
                rows, missing = _rows(file, key, whole)
                file.seek(here)
                if missing:
                    waiting[key] = whole
                else:
                    for row in rows:
                        add(*row)
            current.clear()
            return dismiss(next(iter(waiting))) if len(waiting) > _MOST_WAITING else 0

        def dismiss(key: str) -> int:
            """Add the whole pairs of a sample that waited; returns how many of its pictures are without."""
            rows, missing = _rows(file, key, waiting.pop(key))
            for row in rows:
                add(*row)
            return missing

        while True:
            try:
                member = _next(tar)
            except _DAMAGE:  # cut off within the member before, or a header that lies
                break
            if member is None:
                break
            if not member.isreg() or _is_litter(member.name):
                continue
            if current and _key(member.name)[0] not in current:
                skipped += close()
            _note(current, member, end)
        last = next(iter(current), None)
        skipped += close()
        # Damage may have hit the last sample itself, which is not to be counted twice.
        hurt = _damaged(shard, tar.offset, end) if last not in waiting else 0
        return skipped + hurt + sum(dismiss(key) for key in list(waiting))


def _rows(file: BinaryIO, key: str, group: _Group) -> tuple[list[tuple[int, ...]], int]:
    """Places of a group's pairs, and how many of its pictures have no caption, 1 where none is there."""
    pictures = len({stem for stem, kind, _ in group.members if kind == "image"})
    rows: list[tuple[int, ...]] = []
    for sample in _samples(key, group, Omissions()):
        most, text = 0, (0, 0)
        for kind in ("txt", "json"):
            if kind in sample.texts:
                offset, size = sample.texts[kind]
                count = len(sentences_of(_text_captions(_bytes(file, (offset, size)), kind)))
                if count > most:
                    most, text = count, (offset, size if kind == "txt" else -size)
        if most and sample.image[1]:
            rows.append((*sample.image, *text))
    # Labels alone may be the rest of a sample that was whole without them.
    labels = all(kind == "cls" for _, kind, _ in group.members)
    return rows, 0 if labels else max(pictures, 1) - len(rows)


def _damaged(shard: Path, offset: int, end: int) -> int:
    """1 where the walk stopped before a block that is not the archive's end: nothing tells how many samples follow."""
    with shard.open("rb") as file:
        file.seek(min(offset, end))
        return int(any(file.read(512)))


KIND = SourceKind(open_source, lambda rest, _: open_parts(rest))
