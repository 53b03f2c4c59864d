"""Tokenizers of strangers: what libraries write is read as they read it; what explodes, runs or misleads is refused."""

from __future__ import annotations

import base64
import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from unbackdoor.base.errors import InputError
from unbackdoor.clip.tokenizers import Watch, is_quick, load_tokenizer

Json = dict[str, Any]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXTS = ["a photo of a cat.", "Héllo  WORLD 12345!", "ﬁne ﷺ"]


def unigram(first: tuple[str, ...]) -> list[tuple[str, float]]:
    pieces = [(t, 0.0) for t in first] + [("▁a", -1.0), ("▁photo", -2.0), ("▁", -2.5), ("▁cat", -2.0)]
    return pieces + [(c, -5.0) for c in LETTERS]


def numbered(*first: str) -> dict[str, int]:
    return {t: i for i, t in enumerate(dict.fromkeys([*first, "▁", "▁a", "Ġ", "Ġa", "ca", "cat", *LETTERS]))}


MERGES = [("c", "a"), ("ca", "t")]


def library_tokenizer(kind: str) -> Any:
    import transformers as t

    if kind == "t5":
        return t.T5Tokenizer(vocab=unigram(("<pad>", "</s>", "<unk>")))
    if kind == "xlm-roberta":
        return t.XLMRobertaTokenizer(vocab=unigram(("<s>", "<pad>", "</s>", "<unk>")))
    if kind == "bert":
        vocabulary = numbered("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") | {
            f"##{c}": 40 + i for i, c in enumerate(LETTERS)
        }
        return t.BertTokenizer(vocab=vocabulary)
    if kind == "clip":
        first = ("<|startoftext|>", "<|endoftext|>", "a</w>", "t</w>")
        return t.CLIPTokenizer(vocab=numbered(*first), merges=[("c", "a")])
    if kind == "roberta":
        return t.RobertaTokenizer(vocab=numbered("<s>", "<pad>", "</s>", "<unk>", "<mask>"), merges=MERGES)
    if kind == "gemma":
        return t.GemmaTokenizer(vocab=numbered("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"), merges=MERGES)
    return t.NllbTokenizer(vocab=numbered("<s>", "<pad>", "</s>", "<unk>"), merges=[])


def write(folder: Path, kind: str = "bert") -> Path:
    library_tokenizer(kind).save_pretrained(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    return folder


@pytest.mark.parametrize("kind", ["t5", "xlm-roberta", "bert", "clip", "roberta", "gemma", "nllb"])
def test_what_the_library_writes_is_read_as_it_reads_it(kind: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = write(tmp_path / kind, kind)
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(str(folder))
    assert type(ours) is type(theirs)
    for limits in ({"padding": "max_length"}, {"padding": "longest"}):
        calls = [t(TEXTS, truncation=True, max_length=9, **limits)["input_ids"] for t in (ours, theirs)]
        assert calls[0] == calls[1]


def test_lists_without_tokenizer_json(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat"]))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    assert load_tokenizer(tmp_path)(["a cat"])["input_ids"] == [[2, 5, 6, 3]]


def change(folder: Path, file: str, edit: Callable[[Json], object]) -> None:
    path = folder / file
    content = json.loads(path.read_text()) if path.is_file() else {}
    edit(content)
    path.write_text(json.dumps(content))


def settings(**values: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder, "tokenizer_config.json", lambda c: c.update(values))


def serialized(edit: Callable[[Json], object]) -> Callable[[Path], None]:
    return lambda folder: change(folder, "tokenizer.json", edit)


def replace(count: int, pattern: Json, content: str) -> Callable[[Path], None]:
    step = {"type": "Replace", "pattern": pattern, "content": content}
    return serialized(lambda c: c.update(normalizer={"type": "Sequence", "normalizers": [step] * count}))


def trie(value: int = 0, offset: int = 1) -> bytes:
    """The smallest double array: "a" is a leaf, whose value is where its text begins."""
    units = [0] * 256
    units[97] = 97 | 256 | offset << 10
    if 97 ^ offset < 256:
        units[97 ^ offset] = value | 1 << 31
    return struct.pack("<256I", *units)


def charsmap(text: bytes, count: int = 1, table: bytes | None = None) -> Callable[[Path], None]:
    array = trie() if table is None else table
    packed = base64.b64encode(struct.pack("<I", len(array)) + array + text + b"\0").decode()
    step = {"type": "Precompiled", "precompiled_charsmap": packed}
    return serialized(lambda c: c.update(normalizer={"type": "Sequence", "normalizers": [step] * count}))


def nested(depth: int) -> Json:
    step: Json = {"type": "NFC"}
    for _ in range(depth):
        step = {"type": "Sequence", "normalizers": [step]}
    return step


def template(pieces: int) -> Callable[[Path], None]:
    piece = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}
    return serialized(lambda c: c["post_processor"].update(single=[piece] * pieces))


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (settings(auto_map={"AutoTokenizer": ["evil.T", None]}), "'auto_map' is no setting"),
        (settings(tokenizer_class="Evil"), "tokenizer_class must be"),
        (settings(trust_remote_code=True), "'trust_remote_code' is no setting"),
        (settings(vocab="/etc/passwd"), "'vocab' is no setting"),
        (settings(gguf_file="x"), "'gguf_file' is no setting"),
        (settings(init_inputs=["/etc/passwd"]), "init_inputs must be"),
        (settings(fast_tokenizer_files=["x"]), "'fast_tokenizer_files' is no setting"),
        (settings(extra_ids=10**9), "extra_ids must be"),
        (settings(added_tokens_decoder={"9" * 12: {"content": "x"}}), "added_tokens_decoder must be"),
        (settings(added_tokens_decoder={"9": {"content": "x" * 999}}), "added_tokens_decoder must be"),
        (settings(additional_special_tokens=["x"] * 99_999), "additional_special_tokens must be"),
        (settings(unk_token={"content": "x", "evil": 1}), "'unk_token.evil' is no setting"),
        (settings(model_max_length="x"), "model_max_length must be"),
        (settings(sp_model_kwargs={"model_file": "/etc/passwd"}), "'sp_model_kwargs.model_file' is no setting"),
        (lambda f: (f / "tokenizer_config.json").write_text("[" * 10**5), "JSON"),
        (lambda f: (f / "config.json").write_text("[" * 10**5), "JSON"),
        (lambda f: (f / "config.json").write_text('{"tokenizer_class": "Evil"}'), "tokenizer_class must be"),
        (lambda f: (f / "special_tokens_map.json").write_text('{"cls_token": 5}'), "cls_token must be"),
        (lambda f: (f / "added_tokens.json").write_text('{"x": -1}'), "no table of tokens"),
        (lambda f: (f / "vocab.json").write_text('{"x": 1e9}'), "no table of tokens"),
        (lambda f: (f / "spiece.model").write_bytes(b"\xff" * 100), "no sentencepiece model"),
        (lambda f: (f / "tokenizer.model").write_bytes(b"YQ== 0\n"), "no sentencepiece model"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "not a readable tokenizer"),
        (lambda f: (f / "tokenizer.json").write_text('{"model":' + "[" * 10**5), "not a readable tokenizer"),
        (lambda f: (f / "tokenizer.json").write_bytes(b'{"version": "\xff"}'), "not"),
        (lambda f: (f / "tokenizer.json").write_bytes(b" " * (65 << 20)), "bytes, which is too many"),
        (lambda f: (f / "vocab.txt").write_bytes(b"\n" * (1 << 21)), "tokens or merges; no vocabulary"),
        (lambda f: (f / "spiece.model").write_bytes(b"\x0a\x00" * (1 << 21)), "tokens or merges; no vocabulary"),
        (serialized(lambda c: c["model"].update(vocab={str(i): i for i in range((1 << 20) + 1)})), "tokens or merges"),
        (serialized(lambda c: c.update(evil=1)), "'evil' is no part of a tokenizer"),
        (serialized(lambda c: c.update(normalizer={"type": "Evil"})), "the type 'Evil' is none of"),
        (serialized(lambda c: c.update(normalizer=[1])), "the type 'None' is none of"),
        (serialized(lambda c: c.update(normalizer=nested(9))), "more than 4 deep"),
        (serialized(lambda c: c.update(normalizer={"type": "Sequence", "normalizers": [nested(0)] * 99})), "at most"),
        (replace(3, {"String": "a"}, "a" * 60), "times as long"),
        (replace(30, {"String": "a"}, "aa"), "times as long"),
        (replace(1, {"Regex": "(a|a)*$"}, ""), "known to be quick"),
        (replace(1, {"Regex": "a{1000}{1000}"}, ""), "known to be quick"),
        (replace(1, {"String": "a", "Regex": "b"}, ""), "known to be quick"),
        (charsmap(b"x" * 5000), "times as long"),
        (charsmap(b"x" * 40, 4), "times as long"),
        (serialized(lambda c: c.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "_"})), "Base64"),
        (serialized(lambda c: c.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "="})), "damaged"),
        (serialized(lambda c: c.update(normalizer={"type": "Precompiled"})), "damaged"),
        (charsmap(b"x", table=trie(value=99)), "table of characters is damaged"),
        (charsmap(b"x", table=trie(offset=512)), "table of characters is damaged"),
        (charsmap("é".encode(), table=trie(value=1)), "table of characters is damaged"),
        (charsmap(b"\xff"), "table of characters is damaged"),
        (charsmap(b"x", table=b"\0" * 7), "table of characters is damaged"),
        (template(10**5), "single must be a template"),
        (serialized(lambda c: c.update(model={"type": "Evil"})), "model type 'Evil'"),
        (serialized(lambda c: c["model"].update(max_input_chars_per_word=10**9)), "max_input_chars_per_word must be"),
        (serialized(lambda c: c["model"].update(vocab={"x" * 10**5: 1})), "no vocabulary has such"),
        (serialized(lambda c: c["model"].update(vocab={"x": 10**15})), "no vocabulary has such"),
        (serialized(lambda c: c["model"].update(vocab=[1])), "vocabulary or merges are damaged"),
        (serialized(lambda c: c.update(model={"type": "BPE", "vocab": {"a": 0}})), "vocabulary or merges are damaged"),
        (serialized(lambda c: c.update(model={"type": "BPE", "dropout": 0.5})), "dropout must be"),
        (serialized(lambda c: c.update(added_tokens=[{"id": 0, "content": ""}])), "content must be"),
        (serialized(lambda c: c.update(added_tokens=5)), "no list of at most"),
        (serialized(lambda c: c.update(padding={"strategy": 1, "pad_to_multiple_of": 10**9})), "pad_to_multiple_of"),
        (serialized(lambda c: c.update(truncation={"max_length": 10**12})), "max_length must be"),
    ],
)  # fmt: skip
def test_what_explodes_or_runs_is_refused(damage: Callable[[Path], None], part: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "m")
    damage(folder)
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        load_tokenizer(folder)
    assert part in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert time.monotonic() - began < 10


def test_a_padding_out_of_the_file_asks_for_no_memory(tmp_path: Path) -> None:
    folder = write(tmp_path / "m")
    padding = {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    change(folder, "tokenizer.json", lambda c: c.update(padding=padding))
    assert len(load_tokenizer(folder)(["a cat"])["input_ids"][0]) < 10


def test_nothing_but_what_is_allowed_reaches_the_library(tmp_path: Path) -> None:
    from unbackdoor.clip.tokenizers import checked_folder

    folder = write(tmp_path / "m")
    (folder / "evil.py").write_text("raise SystemExit")
    (folder / "chat_template.jinja").write_text("{{ x }}")
    (folder / "added_tokens.json").write_text("{}")
    with checked_folder(folder) as copy:
        names = {p.name for p in copy.iterdir()}
        assert json.loads((copy / "config.json").read_text()) == {"model_type": "bert"}
    assert (
        names == {"config.json", "tokenizer.json", "tokenizer_config.json", "added_tokens.json"} and not copy.exists()
    )


def test_a_sound_table_of_characters_is_obeyed(tmp_path: Path) -> None:
    folder = write(tmp_path / "m")
    charsmap(b"dog")(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    (folder / "config.json").unlink()
    ids = [load_tokenizer(folder)(t, add_special_tokens=False)["input_ids"] for t in ("a", "dog", "b")]
    assert ids[0] == ids[1] != ids[2]


def test_devices_are_not_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "m")
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer_config.json").symlink_to("/dev/zero")
    began = time.monotonic()
    load_tokenizer(folder)  # no regular file: as if it were not there
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("pattern", "quick"),
    [
        (r"\s+", True), (r" {2,}", True), (r"\s{2,}|[\n\r\t]", True), ("^▁+$", True), (r"[!\"\#\[\]\\]", True),
        (r"<\|startoftext\|>|'s|'re|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", True), ("[[:punct:]]+", True),
        (" ?\\p{L}+", True),
        (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", True),
        ("(a|a)*", False), ("(a+)+", False), ("a*a*b", False), ("a{0,999}a{0,999}", False), (r"(.)\1+", False),
        ("(?R)", False), ("a||b", False), ("", False), ("a" * 600, False), (5, False), ("[a[b]]", False), ("\\", False),
    ],
)  # fmt: skip
def test_quick_patterns(pattern: Any, quick: bool) -> None:
    assert is_quick(pattern) is quick


def test_a_watched_tokenizer_fails_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):  # as Rust's
        pass

    def panic() -> torch.Tensor:
        raise PanicException("index out of bounds\n   at x")

    watch = Watch("m", rows=5)
    assert watch(lambda: torch.tensor([[0, 4]]), 1, lambda t: t).tolist() == [[0, 4]]
    for call, part in (
        (panic, "its tokenizer fails on these texts (index out of bounds)"),
        (lambda: torch.tensor([[5]]), "gives token 5, but the model has 5"),
        (lambda: torch.tensor([[-1]]), "do not belong together"),
    ):
        with pytest.raises(InputError) as caught:
            watch(call, 1, lambda t: t)
        assert part in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.setattr(Watch, "_PATIENCE", 0.01)
    with pytest.raises(InputError, match="took 0 s for"):
        Watch("m")(lambda: time.sleep(0.2) or torch.tensor([[0]]), 1, lambda t: t)
