"""`wds:PATTERN`: WebDataset tar shards, `data-{000000..000009}.tar` or a glob; .jpg/.png/.webp with .cls, .json, .txt.

Only an index (where each image's bytes lie) is held in memory; bytes are read when an image is decoded.
"""

from __future__ import annotations

import json
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

from unbackdoor.data.source import Label, Picture, Source, Split, one_space, read_label
from unbackdoor.errors import InputError

_IMAGES = ("jpg", "jpeg", "png", "webp")


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
        except (tarfile.TarError, OSError, EOFError) as error:
            raise InputError(f"wds:{rest}: {shard.name} is not a readable tar ({error})") from None
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
    with tarfile.open(shard, "r:") as tar:
        for member in tar:
            if not member.isfile():
                continue
            folder, _, name = member.name.rpartition("/")
            stem, _, kind = name.partition(".")
            sample = found.setdefault(f"{folder}/{stem}", _Sample(shard))
            kind = kind.lower()
            if kind in _IMAGES:
                sample.offset, sample.size = member.offset_data, member.size
            elif kind in ("cls", "txt", "json"):
                handle = tar.extractfile(member)
                _annotate(sample, kind, handle.read() if handle else b"")
    return list(found.values())


def _annotate(sample: _Sample, kind: str, raw: bytes) -> None:
    text = raw.decode("utf-8", errors="replace").strip()
    if kind == "cls":
        sample.label = read_label(text)
    elif kind == "txt":
        sample.caption = text
    else:
        try:
            entry = json.loads(text)
        except (json.JSONDecodeError, RecursionError):
            return  # the image may still be of use
        if not isinstance(entry, dict):
            return
        label = entry.get("label", entry.get("class"))
        if isinstance(label, int | str) and not isinstance(label, bool):
            sample.label = read_label(str(label))
        caption = entry.get("caption") or entry.get("captions")
        first = caption[0] if isinstance(caption, list) and caption else caption
        sample.caption = str(first) if first else sample.caption
