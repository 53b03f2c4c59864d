"""The one reader of strangers' files, and strangers' text made fit for where it goes."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from unbackdoor.base.errors import InputError
from unbackdoor.base.printable import csv_cell, latex, markdown, terminal
from unbackdoor.base.untrusted import as_type, file_name, parse_json, read_bytes, read_json_lines, read_text, read_yaml


def test_regular_files_are_read_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfname\n")
    assert read_text(file) == "name\n"
    os.mkfifo(tmp_path / "pipe")
    for path in (
        Path("/dev/zero"),
        tmp_path / "pipe",
        tmp_path,
        tmp_path / "none",
        Path("a\0b"),
        Path("/proc/self/mem"),
    ):
        with pytest.raises(InputError):
            read_bytes(path, 100)


def test_size_is_bounded(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"12345")
    assert read_bytes(file, 5) == b"12345"
    with pytest.raises(InputError, match="more than 4 bytes"):
        read_bytes(file, 4)
    with pytest.raises(InputError, match="more than 3 bytes"):  # the system calls its size 0
        read_bytes(Path("/proc/self/stat"), 3)


def test_files_stay_inside_their_folder(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "secret").write_text("s")
    (inner / "own").write_text("o")
    (inner / "link").symlink_to(tmp_path / "secret")
    (inner / "near").symlink_to(inner / "own")
    (inner / "loop").symlink_to(inner / "loop")
    assert read_bytes(inner / "near", 9, inside=inner) == b"o"
    for name in ("link", "../secret", "loop", "/etc/hostname"):
        with pytest.raises(InputError):
            read_bytes(inner / name, 99, inside=inner)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000, "[" * 65 + "]" * 65, "[" + "9" * 5000 + "]", "[NaN]", "[1e999]", "{", '{"a":1}x', "-" * 9, "",
        '["\\ud800"]', '{"\\uDFFF": 1}', '[{"a": ["\\udc00\\ud83d"]}]',
    ],
)  # fmt: skip
def test_json_that_no_sound_file_holds(text: str) -> None:
    for form in (text, text.encode()):
        with pytest.raises(InputError) as refusal:
            parse_json(form, "there")
        assert str(refusal.value).isprintable()


def test_json_of_the_libraries_is_read() -> None:
    assert parse_json(r'["\ud83d\ude00", "\\ud800"]', "x") == ["😀", r"\ud800"]
    assert parse_json('{"model_max_length": 1000000000000000019884624838656}', "x")["model_max_length"] > 1e29


def test_json_lines_name_the_line(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": 1}\n\n{"a": }\n')
    with pytest.raises(InputError, match="line 3"):
        list(read_json_lines(file))


BOMBS = {
    "deep": "a: " + "[" * 20_000,
    "block": "\n".join(" " * i + "a:" for i in range(300)),
    "laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)),
    "merges": "a: &a {k: 1}\n"
    + "".join(f"{b}: &{b} {{<<: [{','.join([f'*{a}'] * 9)}]}}\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "itself": "a: &a [*a]",
    "number": "a: " + "9" * 5000,
    "tag": "!!python/object/apply:os.system ['true']",
    "date": "a: 2020-99-99",
    "key": "? [a]\n: 1",
    "cut": "a: {",
    "half": 'a: "\\ud800"',
}


@pytest.mark.parametrize("name", BOMBS)
def test_yaml_that_no_sound_file_holds(name: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(BOMBS[name])
    with pytest.raises(InputError):
        read_yaml(file)


def test_yaml_with_anchors_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("base: &b {lr: 1.0e-3}\nown: {<<: *b, epochs: 2}\n")
    assert read_yaml(file)["own"] == {"lr": 1e-3, "epochs": 2}


@dataclass(frozen=True)
class _Trigger:
    spec: str
    strength: float | None = None


@dataclass(frozen=True)
class _Finding:
    trigger: _Trigger
    backdoored: bool | None


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({"trigger": {"spec": "a"}}, "backdoored"),
        ({"trigger": {"spec": 5}, "backdoored": True}, "trigger.spec"),
        ({"trigger": {"spec": "a", "strength": "1"}, "backdoored": True}, "trigger.strength"),
        ({"trigger": [], "backdoored": True}, "trigger"),
        ([], "Expected"),
        (5, "Expected"),
    ],
)
def test_what_is_read_back_is_typed(value: object, match: str) -> None:
    with pytest.raises(InputError, match=match):
        as_type(value, _Finding, "finding.json")


def test_sound_values_become_dataclasses() -> None:
    value = {"trigger": {"spec": "a", "strength": 1}, "backdoored": None, "more": [1]}
    assert as_type(value, _Finding, "finding.json") == _Finding(_Trigger("a", 1.0), None)


@pytest.mark.parametrize("name", ["a", "badnets:size"[:7], "x 1", "wanet-k4,s=0.5", "α", "v1.2"])
def test_names_that_become_files(name: str) -> None:
    assert file_name(name, "attack") == name


@pytest.mark.parametrize(
    "name", ["", "..", "x/../../y", "a\\b", ".hidden", "a\0", "a" * 101, "NUL", "com1.x", "a ", "a.", "a\n", "c:x"]
)
def test_names_that_do_not(name: str) -> None:
    with pytest.raises(InputError, match="attack"):
        file_name(name, "attack")


EVIL = "\x1b]0;pwned\x07\x1b[31m\u202e|`<b>\r\n=1"


def test_text_of_strangers_is_made_fit() -> None:
    assert "\x1b" not in terminal(EVIL) and "\n" not in terminal(EVIL) and "\u202e" not in terminal(EVIL)
    assert markdown("a|b<i>`c`") == r"a\|b\<i\>\`c\`"
    assert latex(r"50% \input{x}") == r"50\% \textbackslash{}input\{x\}"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM", " =1", "\t=1"])
def test_cells_are_no_formulas(text: str) -> None:
    out = io.StringIO()
    csv.writer(out).writerow([csv_cell(text)])
    assert out.getvalue().startswith("'")
