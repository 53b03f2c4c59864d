"""Tokenizers of strangers: checked, then written into a folder of our own, the only one that the library reads.

The tables here say what may reach transformers; nothing else of the folder does: no code, no paths, no further files.
Whatever a file could make explode has a bound: its bytes, the growth of a text under the normalizers, the work of the
regular expressions (of bounded shape, or one that a published tokenizer uses), the tokens that a configuration adds,
and the time that texts take.
"""

from __future__ import annotations

import base64
import json
import math
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from unbackdoor.base.errors import InputError, first_line
from unbackdoor.base.untrusted import parse_json, read_bytes, read_json
from unbackdoor.clip.allowed import (
    Rule,
    anything,
    check_keys,
    either,
    flag,
    maybe,
    real,
    several,
    table,
    text,
    whole,
    words,
)  # fmt: skip
from unbackdoor.clip.library import guarded

T = TypeVar("T")
# The largest that are published: XLM-V's 901,629 tokens, in a tokenizer.json of 62 MB and a sentencepiece model of 18;
# the library takes a GB of memory for a million tokens.
_JSON_BYTES, _MODEL_BYTES, _LIST_BYTES = 64 << 20, 24 << 20, 16 << 20
_MOST_TOKENS = 1 << 20
_MOST_ADDED = 1 << 14
_LONGEST_TOKEN = 512  # characters; merges are made out of a vocabulary in the square of it
_GROWTH = 1000  # times that a normalized text may be longer
_TYPES = (
    "albert", "altclip", "bert", "camembert", "chinese_clip", "clip", "deberta-v2", "distilbert", "electra", "gemma",
    "gpt2", "m2m_100", "metaclip_2", "mpnet", "mt5", "roberta", "siglip", "siglip2", "t5", "xlm-roberta",
)  # fmt: skip
_CLASSES = (
    "AlbertTokenizer", "BertTokenizer", "CamembertTokenizer", "CLIPTokenizer", "DebertaV2Tokenizer",
    "DistilBertTokenizer", "ElectraTokenizer", "GemmaTokenizer", "GPT2Tokenizer", "LlamaTokenizer", "MPNetTokenizer",
    "MT5Tokenizer", "NllbTokenizer", "PreTrainedTokenizer", "RobertaTokenizer", "Siglip2Tokenizer", "SiglipTokenizer",
    "T5Tokenizer", "TokenizersBackend", "XLMRobertaTokenizer",
)  # fmt: skip
_MODELS = ("spiece.model", "spm.model", "tokenizer.model", "sentencepiece.bpe.model")
_LISTS = ("vocab.txt", "merges.txt")
FILES = ("tokenizer.json", "vocab.json", "vocab.txt", *_MODELS)
"""Any of these makes a tokenizer."""

_TOKEN_TEXT = text(r"(?s).{1,256}", "a token of at most 256 characters")
_ADDED: dict[str, Rule] = {
    "content": _TOKEN_TEXT,
    "lstrip": flag(), "rstrip": flag(), "normalized": flag(), "single_word": flag(), "special": flag(),
    "__type": words("AddedToken"),
}  # fmt: skip
_TOKEN = either(_TOKEN_TEXT, table(_ADDED))
_NAMED_TOKENS: dict[str, Rule] = {
    **{
        f"{kind}_token": maybe(_TOKEN)
        for kind in ("bos", "eos", "unk", "pad", "sep", "cls", "mask", "image", "boi", "eoi", "sot", "eot")
    },
    "additional_special_tokens": maybe(several(_TOKEN, 0, _MOST_ADDED)),
    "extra_special_tokens": maybe(
        Rule("a list or an object of tokens", lambda v: _values(v, lambda t: _TOKEN.fits(t) and _is_added(t)))
    ),
}
_SETTINGS: dict[str, Rule] = {
    **_NAMED_TOKENS,
    "tokenizer_class": maybe(
        Rule(
            "a tokenizer class that is known here",
            lambda v: isinstance(v, str) and (v.removesuffix("Fast") in _CLASSES),
        )
    ),
    "added_tokens_decoder": Rule("an object of tokens by number", lambda v: _values(v, _is_added, numbers=True)),
    "model_max_length": maybe(real(1, 1e31)),
    "max_length": maybe(whole(1, 1 << 20)),
    "max_len": maybe(whole(1, 1 << 20)),
    "extra_ids": whole(0, 1024),
    "padding_side": words("left", "right"),
    "truncation_side": words("left", "right"),
    "stride": whole(0, 0),
    "truncation_strategy": maybe(words("longest_first", "only_first", "only_second", "do_not_truncate")),
    "pad_token_type_id": whole(0, 1),
    "errors": words("replace", "strict", "ignore"),
    "model_input_names": several(text("[a-z_]{1,40}", "the name of an input"), 0, 8),
    "src_lang": maybe(text(r"\w{1,20}", "the code of a language")),
    "tgt_lang": maybe(text(r"\w{1,20}", "the code of a language")),
    "never_split": maybe(several(_TOKEN_TEXT, 0, _MOST_ADDED)),
    "sp_model_kwargs": maybe(table({})),
    "init_inputs": several(flag(), 0, 0),
    **{
        key: maybe(flag())
        for key in (
            "do_lower_case", "do_basic_tokenize", "tokenize_chinese_chars", "strip_accents", "lowercase", "clean_text",
            "handle_chinese_chars", "wordpieces_prefix_none", "clean_up_tokenization_spaces", "add_prefix_space",
            "add_bos_token", "add_eos_token", "add_special_tokens", "legacy", "legacy_behaviour", "trim_offsets",
            "use_default_system_prompt", "spaces_between_special_tokens", "split_special_tokens", "do_split_on_punc",
            "remove_space", "keep_accents", "split_by_punct", "fix_mistral_regex", "canonicalize", "do_canonicalize",
        )
    },
}  # fmt: skip
# Where a file came from and who reads it; of no use to encoding, so left out.
_NOTES = (
    "name_or_path", "_name_or_path", "special_tokens_map_file", "tokenizer_file", "vocab_file", "processor_class",
    "chat_template", "is_local", "local_files_only", "backend", "use_fast", "transformers_version", "from_slow",
    "pad_to_multiple_of", "image_processor_type", "full_tokenizer_file", "_commit_hash", "wordpieces_prefix", "is_fast",
    "device_map",
)  # fmt: skip


@contextmanager
def checked_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder with what is allowed of a folder's tokenizer, for transformers' `from_pretrained`.

    Raises:
        InputError: a file that is too large, or says or holds something that is not allowed.
    """
    with tempfile.TemporaryDirectory(prefix="unbackdoor-tokenizer-") as place:
        copy = Path(place)
        for name, content in _contents(folder):
            (copy / name).write_bytes(content)
        yield copy


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer whose files lie in a folder, as transformers' `AutoTokenizer` makes it; nothing is fetched or run.

    Raises:
        InputError: as `checked_folder`; no such files, or damaged ones.
    """
    if not has_tokenizer(folder):
        raise InputError(f"{folder}: no tokenizer files, so no text can be encoded; add tokenizer.json")

    def load() -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(copy), local_files_only=True, trust_remote_code=False)

    with checked_folder(folder) as copy, guarded():
        return guard(load, f"{folder}: its tokenizer cannot be loaded")


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer's vocabulary."""
    return any((folder / name).is_file() for name in FILES)


def guard(call: Callable[[], T], what: str) -> T:
    """What a stranger's tokenizer returns.

    Raises:
        InputError: it fails in whatever way, a panic of the library in Rust included; `what` begins the line.
    """
    try:
        return call()
    except (InputError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # PanicException is no Exception
        raise InputError(f"{what} ({first_line(error)})") from None


class Watch:
    """Guards the calls of one tokenizer: failures, numbers beyond the vocabulary, and time.

    Args:
        what: the tokenizer, for errors.
        rows: how many tokens the model's table has.
    """

    # A sound tokenizer takes 0.1 ms for a text; only one made to be slow takes 50.
    _SLOW, _PATIENCE = 0.05, 10.0

    def __init__(self, what: str, rows: int | None = None) -> None:
        self.what, self.rows = what, rows
        self._seconds, self._texts = 0.0, 0

    def __call__(self, call: Callable[[], T], texts: int, numbers: Callable[[T], Any]) -> T:
        """What `call` returns.

        Args:
            texts: how many it encodes.
            numbers: takes the tensor of token numbers out of it.

        Raises:
            InputError: it fails, names a token that the model does not have, or takes too long for its texts.
        """
        began = time.monotonic()
        result = guard(call, f"{self.what}: its tokenizer fails on these texts")
        self._seconds += time.monotonic() - began
        self._texts += texts
        if self._seconds > self._PATIENCE and self._seconds > self._texts * self._SLOW:
            raise InputError(
                f"{self.what}: its tokenizer took {self._seconds:.0f} s for {self._texts} texts; it is damaged"
            )
        ids = numbers(result)
        if self.rows is not None and ids.numel() and (int(ids.max()) >= self.rows or int(ids.min()) < 0):
            raise InputError(
                f"{self.what}: its tokenizer gives token {int(ids.max())}, but the model has {self.rows} tokens; "
                "they do not belong together"
            )
        return result


def _contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    for name in _LISTS:
        if (folder / name).is_file():
            content = read_bytes(folder / name, _LIST_BYTES)
            _check_count(content.count(b"\n"), str(folder / name))
            yield name, content
    for name in _MODELS:
        if (folder / name).is_file():
            yield name, _sentencepiece(folder / name)
    if (folder / "vocab.json").is_file():
        vocabulary = read_json(folder / "vocab.json", _LIST_BYTES)
        yield "vocab.json", _plain(_numbered(vocabulary, folder / "vocab.json"))
    if (folder / "added_tokens.json").is_file():
        added = _numbered(read_json(folder / "added_tokens.json"), folder / "added_tokens.json", _MOST_ADDED)
        yield "added_tokens.json", _plain(added)
    if (folder / "special_tokens_map.json").is_file():
        named = read_json(folder / "special_tokens_map.json")
        check_keys(named, _NAMED_TOKENS, str(folder / "special_tokens_map.json"))
        yield "special_tokens_map.json", _plain(named)
    if (folder / "tokenizer_config.json").is_file():
        yield "tokenizer_config.json", _plain(_settings(folder / "tokenizer_config.json"))
    if (folder / "tokenizer.json").is_file():
        yield "tokenizer.json", _serialized(folder / "tokenizer.json")
    yield "config.json", _plain(_kind(folder))


def _plain(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def _kind(folder: Path) -> dict[str, Any]:
    """What of the model's configuration decides on the tokenizer's class."""
    if not (folder / "config.json").is_file():
        return {}
    config = read_json(folder / "config.json")
    kind, named = config.get("model_type"), config.get("tokenizer_class")
    facts = {"model_type": kind} if kind in _TYPES else {}
    if named is not None:
        check_keys({"tokenizer_class": named}, _SETTINGS, str(folder / "config.json"))
        facts["tokenizer_class"] = named
    return facts


def _settings(path: Path) -> dict[str, Any]:
    settings = {key: value for key, value in read_json(path).items() if key not in _NOTES}
    check_keys(settings, _SETTINGS, str(path))
    return settings


def _values(value: Any, fits: Callable[[Any], bool], *, numbers: bool = False) -> bool:
    if isinstance(value, dict):
        if numbers and not all(re.fullmatch(r"\d{1,8}", key) for key in value):
            return False
        value = list(value.values())
    return isinstance(value, list) and len(value) <= _MOST_ADDED and all(map(fits, value))


def _is_added(value: Any) -> bool:
    if isinstance(value, str):
        return _TOKEN_TEXT.fits(value)
    return isinstance(value, dict) and all(k in _ADDED and _ADDED[k].fits(v) for k, v in value.items())


def _check_count(tokens: int, what: str) -> None:
    if tokens > _MOST_TOKENS:
        raise InputError(f"{what}: holds more than {_MOST_TOKENS:,} tokens or merges; no vocabulary has so many")


def _numbered(value: dict[str, Any], path: Path, most: int = _MOST_TOKENS) -> dict[str, int]:
    sound = all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < _MOST_TOKENS for n in value.values())
    if not sound or len(value) > most or any(len(t) > _LONGEST_TOKEN for t in value):
        raise InputError(f"{path}: is no table of tokens and their numbers")
    return value


# --- sentencepiece ---------------------------------------------------------------------------------------------------


def _sentencepiece(path: Path) -> bytes:
    content = read_bytes(path, _MODEL_BYTES)
    try:
        pieces, rules = 0, b""
        for field, value in _fields(content):
            pieces += field == 1
            if field == 3 and isinstance(value, bytes):  # NormalizerSpec
                rules = next((v for f, v in _fields(value) if f == 2 and isinstance(v, bytes)), b"")
    except (IndexError, ValueError):
        pieces = 0
    if not pieces:
        raise InputError(f"{path}: is no sentencepiece model; fetch it again")
    _check_count(pieces, str(path))
    if rules:
        _check_growth(_charsmap_growth(rules, str(path)), str(path))
    return content


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of a protobuf message's fields (protobuf.dev, "Encoding")."""
    at = 0

    def varint() -> int:
        nonlocal at
        number = shift = 0
        while True:
            byte = content[at]
            at += 1
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number
            if shift > 63:
                raise ValueError("a number without end")

    while at < len(content):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        length = varint() if kind == 2 else {1: 8, 5: 4}[kind] if kind in (1, 5) else -1
        if length < 0 or at + length > len(content):
            raise ValueError("a field beyond the end")
        yield key >> 3, content[at : at + length]
        at += length


def _charsmap_growth(rules: bytes, what: str) -> int:
    """Characters that a precompiled table makes of one, at most.

    The table is the trie's size, the trie (a double array, as darts-clone packs it) and texts that end in NUL. The
    library walks it without a check of its own, so that every step must stay inside and every leaf name a text.

    Raises:
        InputError: one does not.
    """
    import numpy as np

    size = int.from_bytes(rules[:4], "little")
    units = np.frombuffer(rules[4 : 4 + size - size % 4], "<u4").astype(np.int64)
    texts = rules[4 + size :]
    inner = units >> 31 == 0  # the others hold values
    base = np.arange(len(units)) ^ ((units >> 10) << ((units & 512) >> 6))
    leaves = base[inner & (units & 256 != 0)]
    sound = bool(len(units)) and size % 4 == 0 and size + 4 <= len(rules) and texts.endswith(b"\0")
    sound = sound and bool(((base | 255)[inner] < len(units)).all())
    if sound:
        starts = np.append(np.frombuffer(texts, np.uint8) & 0xC0 != 0x80, False)
        sound = bool(starts[np.minimum(units[leaves] & 0x7FFFFFFF, len(texts))].all())
    try:
        longest = max((len(part.decode()) for part in texts.split(b"\0")), default=1)
    except UnicodeDecodeError:
        sound = False
    if not sound:
        raise InputError(f"{what}: its table of characters is damaged; fetch it again")
    return max(1, longest)


def _check_growth(growth: int, what: str) -> None:
    if growth > _GROWTH:
        raise InputError(f"{what}: its normalizers make a text more than {_GROWTH} times as long; it is damaged")


# --- tokenizer.json --------------------------------------------------------------------------------------------------

_SHORT = text(r"(?s).{0,64}", "a text of at most 64 characters")
_ONE = text(r"(?s).", "one character")
_NUMBER = whole(0, _MOST_TOKENS)
_BEHAVIOR = words("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
_PATTERN = Rule(
    "a text, or a regular expression that is known to be quick",
    lambda v: (
        isinstance(v, dict)
        and len(v) == 1
        and (_SHORT.fits(v.get("String")) or ("Regex" in v and is_quick(v["Regex"])))
    ),
)
_BYTE_LEVEL = {"add_prefix_space": flag(), "trim_offsets": flag(), "use_regex": flag()}
_METASPACE = {
    "replacement": _ONE, "add_prefix_space": flag(), "prepend_scheme": words("always", "first", "never"),
    "split": flag(), "str_rep": _SHORT,
}  # fmt: skip
_PIECES = Rule(
    "a template of at most 16 pieces", lambda v: isinstance(v, list) and len(v) <= 16 and all(map(_is_piece, v))
)
_SPECIAL = Rule("tokens by name", lambda v: _is_special(v))
_NUMBERED_TOKEN = Rule(
    "a token and its number",
    lambda v: isinstance(v, list) and len(v) == 2 and _TOKEN_TEXT.fits(v[0]) and _NUMBER.fits(v[1]),
)
_STEPS: dict[str, dict[str, dict[str, Rule]]] = {
    "normalizer": {
        **{name: {} for name in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "ByteLevel")},
        "Strip": {"strip_left": flag(), "strip_right": flag()},
        "BertNormalizer": {
            "clean_text": flag(), "handle_chinese_chars": flag(), "strip_accents": maybe(flag()), "lowercase": flag(),
        },
        "Replace": {"pattern": _PATTERN, "content": _SHORT},
        "Prepend": {"prepend": _SHORT},
        "Precompiled": {"precompiled_charsmap": text(r"[A-Za-z0-9+/=]*", "a table in Base64")},
        "Sequence": {"normalizers": several(table({}), 0, 32)},
    },
    "pre_tokenizer": {
        **{name: {} for name in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit", "UnicodeScripts")},
        "ByteLevel": _BYTE_LEVEL,
        "Metaspace": _METASPACE,
        "Punctuation": {"behavior": _BEHAVIOR},
        "Digits": {"individual_digits": flag()},
        "Split": {"pattern": _PATTERN, "behavior": _BEHAVIOR, "invert": flag()},
        "CharDelimiterSplit": {"delimiter": _ONE},
        "Sequence": {"pretokenizers": several(table({}), 0, 32)},
    },
    "post_processor": {
        "TemplateProcessing": {"single": _PIECES, "pair": _PIECES, "special_tokens": _SPECIAL},
        "BertProcessing": {"sep": _NUMBERED_TOKEN, "cls": _NUMBERED_TOKEN},
        "RobertaProcessing": {
            "sep": _NUMBERED_TOKEN, "cls": _NUMBERED_TOKEN, "trim_offsets": flag(), "add_prefix_space": flag(),
        },
        "ByteLevel": _BYTE_LEVEL,
        "Sequence": {"processors": several(table({}), 0, 8)},
    },
    "decoder": {
        **{name: {} for name in ("ByteFallback", "Fuse")},
        "ByteLevel": _BYTE_LEVEL,
        "Metaspace": _METASPACE,
        "WordPiece": {"prefix": _SHORT, "cleanup": flag()},
        "BPEDecoder": {"suffix": _SHORT},
        "Replace": {"pattern": _PATTERN, "content": _SHORT},
        "Strip": {"content": _ONE, "start": whole(0, 64), "stop": whole(0, 64)},
        "Sequence": {"decoders": several(table({}), 0, 32)},
    },
}  # fmt: skip
_INNER = ("normalizers", "pretokenizers", "processors", "decoders")
_VOCABULARIES: dict[str, dict[str, Rule]] = {
    "BPE": {
        "dropout": maybe(real(0, 0)), "unk_token": maybe(_TOKEN_TEXT), "continuing_subword_prefix": maybe(_SHORT),
        "end_of_word_suffix": maybe(_SHORT), "fuse_unk": flag(), "byte_fallback": flag(), "ignore_merges": flag(),
    },
    "WordPiece": {
        "unk_token": _TOKEN_TEXT, "continuing_subword_prefix": _SHORT, "max_input_chars_per_word": whole(1, 1000),
    },
    "Unigram": {"unk_id": maybe(_NUMBER), "byte_fallback": flag()},
    "WordLevel": {"unk_token": _TOKEN_TEXT},
}  # fmt: skip
_PADDING: dict[str, Rule] = {
    "strategy": anything(), "direction": words("Left", "Right"), "pad_to_multiple_of": maybe(whole(0, 64)),
    "pad_id": _NUMBER, "pad_type_id": whole(0, 1), "pad_token": _TOKEN_TEXT,
}  # fmt: skip
_TRUNCATION: dict[str, Rule] = {
    "direction": words("Left", "Right"), "max_length": whole(1, 1 << 20), "stride": whole(0, 0),
    "strategy": words("LongestFirst", "OnlyFirst", "OnlySecond"),
}  # fmt: skip


def _serialized(path: Path) -> bytes:
    """A `tokenizer.json` whose every part but the vocabulary is checked and written anew."""
    import msgspec

    what = str(path)
    try:
        parts: dict[str, Any] = msgspec.json.decode(read_bytes(path, _JSON_BYTES), type=dict[str, msgspec.Raw])
        model = msgspec.json.decode(parts.pop("model", b"{}"), type=dict[str, msgspec.Raw])
        whole_file = {key: parse_json(bytes(raw), f"{what}: {key}") for key, raw in parts.items()}
        settings = {
            key: parse_json(bytes(raw), f"{what}: model.{key}")
            for key, raw in model.items()
            if key not in ("vocab", "merges")
        }
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InputError(f"{what}: not a readable tokenizer ({first_line(error)})") from None
    unknown = sorted(set(whole_file) - {"version", "truncation", "padding", "added_tokens", *_STEPS})
    if unknown:
        raise InputError(f"{what}: {unknown[0][:40]!r} is no part of a tokenizer that is allowed")
    growth = 1
    for key in _STEPS:
        growth *= _check_step(whole_file.get(key), key, f"{what}: {key}", 0)
    _check_growth(growth, what)
    kind = settings.pop("type", None) or _guess(model)
    if not isinstance(kind, str) or kind not in _VOCABULARIES:
        raise InputError(f"{what}: the model type {str(kind)[:40]!r} is none of {', '.join(_VOCABULARIES)}")
    check_keys(settings, _VOCABULARIES[kind], f"{what}: model")
    rewritten = {
        **whole_file,
        "padding": _padding(whole_file.get("padding"), what),
        "truncation": _table(whole_file.get("truncation"), _TRUNCATION, f"{what}: truncation"),
        "added_tokens": _added_tokens(whole_file.get("added_tokens"), what),
        "model": {"type": kind, **settings, **_vocabulary(kind, model, f"{what}: model")},
    }
    return msgspec.json.encode(rewritten)


def _vocabulary(kind: str, model: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Tokens with their numbers or scores, and merges."""
    import msgspec

    scored = kind == "Unigram"
    try:
        tokens: Any = msgspec.json.decode(
            model.get("vocab", b"{}"), type=list[tuple[str, float]] if scored else dict[str, int]
        )
        parts = {"vocab": tokens}
        if kind == "BPE":
            parts["merges"] = msgspec.json.decode(model.get("merges", b"0"), type=list[str | list[str]])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InputError(f"{what}: its vocabulary or merges are damaged ({first_line(error)})") from None
    _check_count(max(map(len, parts.values())), what)
    longest = max((len(token[0] if scored else token) for token in tokens), default=0)
    if longest > _LONGEST_TOKEN or not (scored or all(0 <= n < _MOST_TOKENS for n in tokens.values())):
        raise InputError(f"{what}: a token of {longest} characters, or an impossible number; no vocabulary has such")
    return parts


def _guess(model: Mapping[str, Any]) -> str:
    """Files of before 2021 leave the type out."""
    if "merges" in model:
        return "BPE"
    return "WordPiece" if "max_input_chars_per_word" in model else "Unigram" if "unk_id" in model else "WordLevel"


def _check_step(step: Any, kind: str, what: str, depth: int) -> int:
    """Check one normalizer, pre-tokenizer, …; returns the growth of a text under it."""
    if step is None:
        return 1
    table_ = _STEPS[kind]
    name = step.get("type") if isinstance(step, dict) else None
    if depth > 4:
        raise InputError(f"{what}: steps lie within one another more than 4 deep; no tokenizer needs that")
    if not isinstance(name, str) or name not in table_:
        raise InputError(f"{what}: the type {str(name)[:40]!r} is none of {', '.join(table_)}")
    settings = {key: value for key, value in step.items() if key != "type"}
    inner: Any = next((settings[key] for key in _INNER if key in settings), [])
    if name == "Sequence":
        if not isinstance(inner, list) or len(inner) > 32:
            raise InputError(f"{what}: a sequence of at most 32 steps is allowed")
        unknown = set(settings) - set(_INNER)
        if unknown:
            raise InputError(f"{what}: {sorted(unknown)[0][:40]!r} is no setting that is allowed")
        return math.prod(_check_step(part, kind, what, depth + 1) for part in inner)
    check_keys(settings, table_[name], f"{what} {name}")
    return _growth(name, settings, what) if kind == "normalizer" else 1


def _growth(name: str, settings: dict[str, Any], what: str) -> int:
    if name in ("NFKC", "NFKD"):
        return 18  # U+FDFA
    if name == "ByteLevel":
        return 2
    if name == "Replace":
        return max(1, len(settings.get("content", "")))
    if name == "Precompiled":
        try:
            rules = base64.b64decode(settings.get("precompiled_charsmap") or "", validate=True)
        except ValueError:
            rules = b""
        return _charsmap_growth(rules, what)
    return 1


def _table(value: Any, keys: Mapping[str, Rule], what: str) -> dict[str, Any] | None:
    if value is None:
        return None
    check_keys(value, keys, what)
    return dict(value)


def _padding(value: Any, what: str) -> dict[str, Any] | None:
    """Texts are padded as each call asks, never to a length out of the file."""
    if isinstance(value, dict):
        value = {**value, "strategy": "BatchLongest"}
    return _table(value, _PADDING, f"{what}: padding")


def _added_tokens(value: Any, what: str) -> list[dict[str, Any]]:
    keys = {**_ADDED, "id": _NUMBER}
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > _MOST_ADDED:
        raise InputError(f"{what}: added_tokens is no list of at most {_MOST_ADDED} tokens")
    for token in value:
        check_keys(token, keys, f"{what}: added_tokens")
    return value


def _is_piece(piece: Any) -> bool:
    if not isinstance(piece, dict) or len(piece) != 1:
        return False
    (kind, inner), = piece.items()  # fmt: skip
    return (
        kind in ("Sequence", "SpecialToken")
        and isinstance(inner, dict)
        and set(inner) <= {"id", "type_id"}
        and _TOKEN_TEXT.fits(inner.get("id"))
        and inner.get("type_id", 0) in (0, 1)
    )


def _is_special(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(v, dict)
        and set(v) <= {"id", "ids", "tokens"}
        and _TOKEN_TEXT.fits(v.get("id"))
        and several(_NUMBER, 1, 4).fits(v.get("ids"))
        and several(_TOKEN_TEXT, 1, 4).fits(v.get("tokens"))
        for v in value.values()
    )


# --- regular expressions ---------------------------------------------------------------------------------------------

# One character: an escape, a set without sets in it, any but the signs of the syntax.
_SET = r"\[\^?(?:\\.|\[:\^?[a-z]+:\]|&(?!&)|[^\[\]\\&])+\]"
_ATOM = rf"(?:\\[pP]\{{\^?\w{{1,24}}\}}|\\[^\dgkuxQEA-CGKMRXZ]|{_SET}|[^\\\[\](){{}}|*+?^$])"
_ATOMS = re.compile(rf"({_ATOM})([*+?]\+?|\{{\d{{0,3}},?\d{{0,3}}\}})?", re.DOTALL)
# Of GPT-2, Llama 3 and Qwen 2, which look ahead and group; each takes time in proportion to the text.
_PUBLISHED = frozenset((
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    *(
        rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{count}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
        for count in ("", "{1,3}")
    ),
    r"(?<!\n)^▁",
))  # fmt: skip


def is_quick(pattern: Any) -> bool:
    """Whether a regular expression takes no more than the square of a text's length, whatever the text.

    That is so for alternatives of single characters in a row of which one at most may repeat without a small limit:
    nothing is inside anything else, so that there is nothing to try in many ways.
    """
    if not isinstance(pattern, str) or len(pattern) > 512:
        return False
    if pattern in _PUBLISHED:
        return True
    return all(map(_is_row, _alternatives(pattern)))


def _alternatives(pattern: str) -> list[str]:
    """The pattern cut at every `|` that is no character of a set and not escaped."""
    parts, at, inside = [""], 0, False
    while at < len(pattern):
        step = pattern[at : at + 2] if pattern[at] == "\\" else pattern[at]
        inside = step == "[" or (inside and step != "]")
        if step == "|" and not inside:
            parts.append("")
        else:
            parts[-1] += step
        at += len(step)
    return parts


def _is_row(part: str) -> bool:
    body = part.removeprefix("^")
    body = body[:-1] if body.endswith("$") and not body.endswith("\\$") else body
    at = repeats = 0
    while at < len(body):
        atom = _ATOMS.match(body, at)
        if not atom or atom.end() == at:
            return False
        counts = re.findall(r"\d+", atom.group(2) or "")
        small = (atom.group(2) or "?") == "?" or (counts and not atom.group(2).endswith(",}") and int(counts[-1]) <= 8)
        repeats += not small
        at = atom.end()
    return bool(body) and repeats <= 1
