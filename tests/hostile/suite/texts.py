"""Tokenisers of strangers: bombs, code, and files without end."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile.suite.made import DEEP, EVALUATE, HUGE_NUMBER, Json, hf_model, open_clip_model
from tests.hostile.suite.openclip import evil
from tests.hostile.suite.runner import MARKER, Entry

_MORE = {"dual": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "."]}


def _sound(**more: Any) -> Json:
    """A word-level tokenizer.json; `more` replaces parts of it."""
    words = {word: number for number, word in enumerate(_MORE["dual"])}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"},
        **more,
    }


def _json(name: str, value: object, codes: tuple[int, ...] = (2,)) -> Entry:
    def make(folder: Path) -> list[str]:
        model = hf_model(folder / "m", "dual")
        (model / "vocab.txt").unlink()
        text = value if isinstance(value, str) else json.dumps(value)
        (model / "tokenizer.json").write_text(text)
        (model / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "pad_token": "[PAD]"})
        )
        return ["evaluate", "--model", "m", *EVALUATE]

    return Entry(f"tokeniser {name}", make, codes)


def _config(name: str, value: object, codes: tuple[int, ...] = (2,)) -> Entry:
    def make(folder: Path) -> list[str]:
        model = hf_model(folder / "m", "dual")
        text = value if isinstance(value, str) else json.dumps({"tokenizer_class": "BertTokenizer", **_mapping(value)})
        (model / "tokenizer_config.json").write_text(text)
        return ["evaluate", "--model", "m", *EVALUATE]

    return Entry(f"tokeniser config {name}", make, codes)


def _mapping(value: object) -> Json:
    assert isinstance(value, dict)
    return value


def _file(name: str, file: str, content: bytes, codes: tuple[int, ...] = (2,)) -> Entry:
    def make(folder: Path) -> list[str]:
        model = hf_model(folder / "m", "dual")
        (model / "vocab.txt").unlink()
        (model / file).write_bytes(content)
        (model / "tokenizer_config.json").write_text("{}")
        return ["evaluate", "--model", "m", *EVALUATE]

    return Entry(f"tokeniser {file} {name}", make, codes)


def _replace(pattern: Json, content: str) -> Json:
    return _sound(normalizer={"type": "Replace", "pattern": pattern, "content": content})


_AGAIN = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
_BOMBS = [
    ("that multiplies", _sound(normalizer={"type": "Sequence", "normalizers": [_AGAIN] * 5})),
    (
        "that prepends",
        _sound(normalizer={"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "x" * 10**6}] * 400}),
    ),
    ("with a regex", _replace({"Regex": "(a|a|o| )*b"}, "")),
    ("with a nested regex", _replace({"Regex": "((a*)*)*$"}, "x")),
    (
        "that splits by a regex",
        _sound(
            pre_tokenizer={"type": "Split", "pattern": {"Regex": "(.*)*x"}, "behavior": "Isolated", "invert": False}
        ),
    ),
    ("of a broken regex", _replace({"Regex": "("}, "")),
    (
        "of a precompiled map",
        _sound(normalizer={"type": "Precompiled", "precompiled_charsmap": base64.b64encode(bytes(5000)).decode()}),
    ),
    (
        "nested",
        _sound(normalizer=None) | {"normalizer": json.loads('{"type":"Sequence","normalizers":[' * 30 + "]}" * 30)},
    ),
    ("of a long sequence", _sound(normalizer={"type": "Sequence", "normalizers": [{"type": "Lowercase"}] * 10**6})),
    ("of an unknown kind", _sound(normalizer={"type": "Evil"})),
    (
        "that pads to a billion",
        _sound(
            padding={
                "strategy": {"Fixed": 10**9},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "[PAD]",
            }
        ),
    ),
    (
        "with ids beyond the vocabulary",
        _sound(model={"type": "WordLevel", "vocab": {"[UNK]": 10**6, "a": 10**7}, "unk_token": "[UNK]"}),
    ),
    ("with ids below nought", _sound(model={"type": "WordLevel", "vocab": {"[UNK]": -1}, "unk_token": "[UNK]"})),
    (
        "with added ids beyond",
        _sound(
            added_tokens=[
                {
                    "id": 10**8,
                    "content": "a",
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "special": True,
                }
            ]
        ),
    ),
    ("of a model unknown", _sound(model={"type": "Evil"})),
    ("with merges of nothing", _sound(model={"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"] * 10})),
    (
        "with a template of a billion",
        _sound(
            post_processor={
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}] * 10**6,
                "pair": [],
                "special_tokens": {},
            }
        ),
    ),
    ("deep", '{"model":' + DEEP),
    ("of a huge number", '{"version": ' + HUGE_NUMBER + "}"),
    ("cut", "{"),
    ("list", "[]"),
]
_CONFIGS: list[tuple[str, object, tuple[int, ...]]] = [
    ("of an unknown class", {"tokenizer_class": "Evil"}, (0, 2)),
    ("of a class of another library", {"tokenizer_class": "os.system"}, (0, 2)),
    ("with a file elsewhere", {"vocab_file": "/etc/passwd", "tokenizer_file": "/dev/zero"}, (0, 2)),
    ("of a huge length", {"model_max_length": 10**39}, (0, 2)),
    ("of a length below nought", {"model_max_length": -5}, (0, 2)),
    ("of special tokens in a list", {"unk_token": ["a", 5]}, (0, 2)),
    ("of special tokens of objects", {"additional_special_tokens": [{"evil": 1}]}, (0, 2)),
    ("of added tokens beyond", {"added_tokens_decoder": {"999999999": {"content": "a"}}}, (0, 2)),
    ("of added tokens in words", {"added_tokens_decoder": {"x": "y"}}, (0, 2)),
    ("with a chat template", {"chat_template": "{% for i in range(10**9) %}x{% endfor %}"}, (0, 2)),
    ("that asks for trust", {"trust_remote_code": True, "auto_map": {"AutoTokenizer": ["evil.T", "evil.T"]}}, (0, 2)),
    ("of another repository", {"name_or_path": "evil-org/evil", "_name_or_path": "evil-org/evil"}, (0, 2)),
    ("deep", '{"a":' + DEEP, (2,)),
    ("cut", "{", (2,)),
    ("list", "[]", (2,)),
]
_FILES: list[tuple[str, str, bytes, tuple[int, ...]]] = [
    ("empty", "vocab.txt", b"", (2,)),
    ("of one word", "vocab.txt", b"[UNK]\n", (2,)),
    ("of 10^6 words", "vocab.txt", b"\n".join(b"w%d" % i for i in range(10**6)), (2,)),
    ("of zeros", "vocab.txt", bytes(10**6), (2,)),
    ("not in UTF-8", "vocab.txt", b"\xff\xfe\n\xff", (2,)),
    ("of zeros", "spiece.model", bytes(10**6), (2,)),
    ("of noise", "tokenizer.model", bytes(range(256)) * 50, (2,)),
    ("of a huge field", "spiece.model", b"\x0a\xff\xff\xff\xff\x7f" + b"x" * 100, (2,)),
    ("of noise", "vocab.json", b"{", (2,)),
    ("of ids in words", "vocab.json", b'{"a": "b"}', (2,)),
]


def _remote(kind: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        if kind == "hf":
            model = hf_model(folder / "m", "dual")
            config = (model / "config.json").read_text()
            evil(model, folder / MARKER)
            (model / "config.json").write_text(config)
        else:
            model = open_clip_model(
                folder / "m", lambda c: c["model_cfg"]["text_cfg"].update(hf_tokenizer_name=str(folder / "m"))
            )
            evil(model, folder / MARKER)
        return ["evaluate", "--model", "m", *EVALUATE]

    return make


def _device(folder: Path) -> list[str]:
    model = hf_model(folder / "m", "dual")
    (model / "vocab.txt").unlink()
    (model / "vocab.txt").symlink_to("/dev/zero")
    return ["evaluate", "--model", "m", *EVALUATE]


ENTRIES = [
    # The tool pads to the context itself, so a file's own padding takes no part.
    *(_json(name, value, (0, 2) if "pads" in name else (2,)) for name, value in _BOMBS),
    *(_config(name, value, codes) for name, value, codes in _CONFIGS),
    *(_file(name, file, content, codes) for name, file, content, codes in _FILES),
    Entry("tokeniser code of a Hugging Face folder", _remote("hf"), (0, 2)),
    Entry("tokeniser code of an OpenCLIP folder", _remote("open_clip"), (0, 2)),
    Entry("tokeniser file is a device", _device),
]
