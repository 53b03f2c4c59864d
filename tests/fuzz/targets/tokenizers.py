"""Tokenizers: one file of a sound folder changed, the whole then loaded and asked."""

from __future__ import annotations

import json
import tempfile
from functools import cache, partial
from pathlib import Path

from tests.clip.test_tokenizers import TEXTS, charsmap, write
from tests.fuzz.engine import Reader, Target
from tests.fuzz.mutate import Mutator, mutate_bytes, mutate_json, mutate_text
from unbackdoor.clip.tokenizers import Watch, load_tokenizer

_KINDS = ("bert", "clip", "roberta", "t5", "xlm-roberta", "gemma")
_LISTS = {"vocab.txt": "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "##t", "photo"])}


@cache
def _files(kind: str) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as place:
        folder = write(Path(place) / kind, kind)
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def _ask(folder: Path) -> str:
    import torch

    tokenizer = load_tokenizer(folder)
    watch = Watch(str(folder), 1 << 20)
    found = watch(
        lambda: tokenizer(TEXTS, padding="max_length", truncation=True, max_length=9, return_tensors="pt"),
        len(TEXTS),
        lambda found: found["input_ids"],
    )
    assert isinstance(found["input_ids"], torch.Tensor)
    return f"{type(tokenizer).__name__} {tuple(found['input_ids'].shape)}"


def _whole(file: str, kind: str, room: Path) -> Reader:
    """A folder as the library saves it, `file` in it changed."""
    for name, content in _files(kind).items():
        (room / name).write_bytes(content)

    def read(data: bytes) -> str:
        (room / file).write_bytes(data)
        return _ask(room)

    return read


def _serialized(room: Path) -> Reader:
    """`tokenizer.json` alone, whatever its kind."""
    (room / "config.json").write_text("{}")
    (room / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"}')

    def read(data: bytes) -> str:
        (room / "tokenizer.json").write_bytes(data)
        return _ask(room)

    return read


def _serialized_seeds() -> list[bytes]:
    seeds = [_files(kind)["tokenizer.json"] for kind in _KINDS]
    value = json.loads(seeds[3])
    value["normalizer"] = {
        "type": "Sequence",
        "normalizers": [
            {"type": "NFKC"},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            {"type": "Strip", "strip_left": True, "strip_right": True},
        ],
    }
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "tokenizer.json").write_bytes(seeds[3])
        charsmap(b"x")(folder)
        seeds.append((folder / "tokenizer.json").read_bytes())
    return [*seeds, json.dumps(value).encode()]


def _old(room: Path) -> Reader:
    """Lists alone, as older versions of the library wrote them: a line that names the file, then its content."""
    sound = {
        "vocab.json": b'{"<s>": 0, "<pad>": 1, "a": 2, "c": 3, "ca": 4, "t": 5, "cat": 6, "</s>": 7, "<unk>": 8}',
        "merges.txt": b"#version: 0.2\nc a\n",
    }
    kinds = {"vocab.txt": "BertTokenizer", "vocab.json": "RobertaTokenizer", "merges.txt": "RobertaTokenizer"}

    def read(data: bytes) -> str:
        first, _, content = data.partition(b"\n")
        file = first.decode("latin-1") if first.decode("latin-1") in kinds else "spiece.model"
        for path in room.iterdir():
            path.unlink()
        for name in sound if file in sound else ():
            (room / name).write_bytes(sound[name])
        kind = kinds.get(file, "T5Tokenizer")
        (room / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
        (room / file).write_bytes(content)
        return _ask(room)

    return read


def _old_seeds() -> list[bytes]:
    words = "\n".join(_LISTS["vocab.txt"].split())
    pieces = b"".join(_piece(text, score) for text, score in (("<unk>", 0.0), ("</s>", 0.0), ("▁a", -1.0), ("a", -2.0)))
    return [
        f"vocab.txt\n{words}".encode(),
        b'vocab.json\n{"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "c": 5, "ca": 6}',
        b"merges.txt\n#version: 0.2\nc a\nca t\n",
        b"spiece.model\n" + pieces + _field(2, _number(3, 1)) + _field(3, _field(1, b"nmt_nfkc")),
    ]


def _number(field: int, value: int) -> bytes:
    return bytes([field << 3, value])


def _field(field: int, content: bytes) -> bytes:
    return bytes([field << 3 | 2, len(content)]) + content


def _piece(text: str, score: float) -> bytes:
    """A piece of a sentencepiece model, as protobuf writes it."""
    import struct

    return _field(1, _field(1, text.encode()) + bytes([2 << 3 | 5]) + struct.pack("<f", score))


def _one(file: str, kind: str, mutate: Mutator) -> Target:
    return Target(
        f"tokenizer-{kind}-{file.partition('.')[0]}", mutate, lambda: [_files(kind)[file]], partial(_whole, file, kind)
    )


def _special(room: Path) -> Reader:
    return _whole("special_tokens_map.json", "roberta", room)


def _special_seeds() -> list[bytes]:
    return [
        b'{"bos_token": "<s>", "pad_token": {"content": "<pad>", "lstrip": false}, "unk_token": "<unk>"}',
        b'{"additional_special_tokens": ["<x>", "<y>"], "mask_token": "<mask>"}',
    ]


def _added(room: Path) -> Reader:
    return _whole("added_tokens.json", "bert", room)


def _old_bytes(data: bytes, rng, pool):  # type: ignore[no-untyped-def]
    """The first line stays."""
    first, _, content = data.partition(b"\n")
    change = (
        mutate_bytes
        if first == b"spiece.model"
        else mutate_json
        if first == b"vocab.json" and rng.random() < 0.6
        else mutate_text
    )
    return (
        first + b"\n" + change(content, rng, [other.partition(b"\n")[2] for other in pool if other.startswith(first)])
    )


TARGETS = (
    Target("tokenizer-json", mutate_json, _serialized_seeds, _serialized),
    _one("tokenizer_config.json", "bert", mutate_json),
    _one("tokenizer_config.json", "t5", mutate_json),
    Target("tokenizer-special", mutate_json, _special_seeds, _special),
    Target("tokenizer-added", mutate_json, lambda: [b'{"<x>": 40, "<y>": 41}'], _added),
    Target("tokenizer-lists", _old_bytes, _old_seeds, _old),
)
