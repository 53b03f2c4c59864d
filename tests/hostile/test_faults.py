"""A full disk, a kill at any moment, two processes at once: the old file is there or the new one, never half of one."""

from __future__ import annotations

import ast
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.clip.convert import open_clip_to_hf, small_open_clip
from unbackdoor import InputError, load
from unbackdoor.base import disk
from unbackdoor.verbs.convert import convert
from unbackdoor.verbs.vector import trigger_vector
from unbackdoor.verbs.weights import apply
from unbackdoor.weights.files import write_tensors

SOURCE = Path(__file__).parent.parent.parent / "src" / "unbackdoor"

# Every function that writes by itself, and why that loses nothing. All others go through `disk`.
SITES = {
    "bench/engine.py:_prepare": "to the null device",
    "clip/convert.py:_write_json": "into the temporary folder of atomic_folder",
    "clip/convert.py:_write_tokenizer": "into the temporary folder of atomic_folder",
    "data/offsets.py:_write": "called by atomic",
    "clip/text_towers.py:written": "into a temporary folder",
    "clip/tokenizers.py:checked_folder": "into a temporary folder",
    "base/journal.py:append": "lines; a cut one is left out when read",
    "base/manifest.py:reset_peak_memory": "no file of ours",
    "report/pictures.py:_written": "into memory",
    "verbs/bench.py:grid_folder": "an empty lock",
    "verbs/craft.py:write_picture": "called by atomic",
    "weights/files.py:write": "called by atomic",
    "weights/files.py:write_tensors": "holds write",
    "weights/stream.py:_stream": "called by atomic and atomic_folder",
    "weights/stream.py:fill": "called by atomic_folder",
    "weights/stream.py:write_folder": "holds fill",
}


def sites() -> set[str]:
    """Every function with a call that can write a file: open for writing, write_text, write_bytes, save_file, …"""
    found = set()
    for path in SOURCE.rglob("*.py"):
        if path.name == "disk.py":
            continue
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Call) and writes(node):
                        found.add(f"{path.relative_to(SOURCE)}:{function.name}")
    return found


def writes(call: ast.Call) -> bool:
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    modes = [a.value for a in [*call.args, *(k.value for k in call.keywords)] if isinstance(a, ast.Constant)]
    if name == "open":
        return any(isinstance(mode, str) and set(mode) & set("wax+") and len(mode) < 4 for mode in modes)
    plain = isinstance(function, ast.Attribute)  # `write_text` by itself is ours, and atomic
    owner = getattr(function.value, "id", "") if isinstance(function, ast.Attribute) else ""
    return (plain and name in ("write_text", "write_bytes")) or name == "save_file" or (owner, name) in (
        ("torch", "save"), ("np", "save"), ("np", "savez"), ("buffer", "save")
    ) or (name == "save" and bool(call.keywords) and call.keywords[0].arg == "format")  # fmt: skip


def test_every_write_goes_through_disk_or_loses_nothing() -> None:
    assert sites() == set(SITES)


def old_model(folder: Path) -> Path:
    path = folder / "a.safetensors"
    save_file({"w": torch.zeros(1000)}, path)
    save_file({"w": torch.ones(1000)}, folder / "t.safetensors")
    return path


class Faults:
    """Fails the n-th call of fsync or of a rename, as a full disk would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.calls = 0
        for owner, name in ((disk.os, "fsync"), (Path, "replace")):
            real = getattr(owner, name)

            def failing(*given: object, real: Callable[..., object] = real) -> object:
                self.calls += 1
                if self.calls == number:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return real(*given)

            monkeypatch.setattr(owner, name, failing)


def save_open_clip(folder: Path) -> None:
    load(str(small_open_clip(folder / "source"))).save(folder / "out")


def save_hf(folder: Path) -> None:
    load(str(open_clip_to_hf(small_open_clip(folder / "source"), folder / "hf"))).save(folder / "out")


def convert_model(folder: Path) -> None:
    convert(model=str(small_open_clip(folder / "source")), to="hf", out=folder / "out")


def take_vector(folder: Path) -> None:
    trigger_vector(
        model=str(small_open_clip(folder / "source")), data="embedded:digits", trigger="badnets:size=4", target="3",
        out=folder / "out" / "vector.safetensors", samples=4,
    )  # fmt: skip


def apply_to_file(folder: Path) -> None:
    source = folder / "source"
    source.mkdir(exist_ok=True)
    apply(old_model(source), source / "t.safetensors", alpha=1.0, out=folder / "out" / "o.safetensors")


def apply_to_folder(folder: Path) -> None:
    source = folder / "source"
    source.mkdir(exist_ok=True)
    apply(old_model(source), source / "t.safetensors", alpha=1.0, out=folder / "out" / "model")


VERBS = (save_open_clip, save_hf, convert_model, take_vector, apply_to_file, apply_to_folder)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_a_full_disk_at_every_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: Callable[[Path], None]
) -> None:
    number = 1
    while True:
        folder = tmp_path / str(number)
        folder.mkdir()
        with monkeypatch.context() as patched:
            faults = Faults(patched, number)
            try:
                verb(folder)
            except InputError as error:  # one line, whichever write it was
                assert "cannot be written (No space left on device)" in str(error)
            else:
                assert faults.calls < number  # no write was left to fail
                break
        for path in folder.rglob("*"):
            assert not path.name.endswith(".tmp"), path
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".safetensors":
                load_file(path)
        number += 1
    assert number > 2


SLOW = """
import sys, time
from pathlib import Path
from unbackdoor.base.disk import atomic, atomic_folder

def write(path):
    with open(path if sys.argv[1] == "file" else path / "inside", "wb") as file:
        file.write(b"new" * 1000)
        file.flush()
        print("begun", flush=True)
        time.sleep(60)

atomic(Path("kept"), write) if sys.argv[1] == "file" else atomic_folder(Path("folder"), write)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_kill_while_writing(tmp_path: Path, kind: str) -> None:
    (tmp_path / "kept").write_bytes(b"old")
    child = subprocess.Popen([sys.executable, "-c", SLOW, kind], cwd=tmp_path, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"begun\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert (tmp_path / "kept").read_bytes() == b"old" and not (tmp_path / "folder").exists()
    # What the dead one left is hidden and in nobody's way.
    disk.write_text(tmp_path / "kept", "newer")
    disk.atomic_folder(tmp_path / "folder", lambda folder: disk.write_text(folder / "x", "y"))
    assert (tmp_path / "kept").read_text() == "newer" and (tmp_path / "folder" / "x").read_text() == "y"


LARGE: dict[str, list[str]] = {
    "apply": ["apply", "a.safetensors", "t.safetensors", "--alpha", "1", "--out", "o.safetensors"],
    "apply to a folder": ["apply", "a.safetensors", "t.safetensors", "--alpha", "1", "--out", "o"],
    "convert": ["convert", "a.pt", "--out", "o.safetensors"],
    "lora": ["lora", "a.safetensors", "--out", "o"],
}


@pytest.mark.parametrize("words", LARGE.values(), ids=LARGE)
def test_a_file_larger_than_the_system_allows(tmp_path: Path, words: list[str]) -> None:
    """The system's own refusal in the middle of a write, not an injected one; safetensors has an error of its own."""
    old_model(tmp_path)
    torch.save({"w": torch.zeros(1000)}, tmp_path / "a.pt")
    if words[0] == "lora":
        save_file({"w.weight": torch.ones(300, 300)}, tmp_path / "a.safetensors")
    (tmp_path / "o.safetensors").write_bytes(b"old")
    before = sorted(p.name for p in tmp_path.iterdir())
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); from unbackdoor.cli.main import run; "
        f"sys.exit(run(['weights', *{words!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "too large" in done.stderr.lower(), done.stderr
    assert (tmp_path / "o.safetensors").read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_what_the_system_does_not_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.safetensors").mkdir()
    for out in ("file/o.safetensors", "folder.safetensors", "n" * 300 + ".safetensors", "/proc/o.safetensors"):
        for write in (lambda p: disk.write_text(p, "x"), lambda p: write_tensors(p, {"w": torch.ones(1)})):
            with pytest.raises(InputError, match="cannot be written"):
                write(tmp_path / out)
    with pytest.raises(InputError, match="no name of a file"):
        disk.write_text(tmp_path / "a\0b", "x")
    disk.write_text(tmp_path / ("n" * 250), "half a pair: \ud800")
    assert (tmp_path / ("n" * 250)).read_text(encoding="utf-8") == "half a pair: ?"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.safetensors", "n" * 250]


def test_companions_of_a_stranger(tmp_path: Path) -> None:
    """A file of nothing that claims a terabyte, and a link to itself, are not copied."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "loop.json").symlink_to("loop.json")
    (source / "vocab.json").write_text("{}")
    disk.copy_companions(source, tmp_path / "target")
    assert [p.name for p in (tmp_path / "target").iterdir()] == ["vocab.json"]
    with (source / "huge.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match=r"huge\.json: has more than"):
        disk.copy_companions(source, tmp_path / "target")


def test_two_processes_on_one_output(tmp_path: Path) -> None:
    """Either's file, whole: both write at once, again and again, and a reader never sees anything else."""
    code = (
        "import sys; from pathlib import Path; from unbackdoor.base.disk import atomic\n"
        "for _ in range(200):\n"
        "    atomic(Path('kept'), lambda p: p.write_bytes(sys.argv[1].encode() * 100_000))"
    )
    (tmp_path / "kept").write_bytes(b"a" * 100_000)
    both = [subprocess.Popen([sys.executable, "-c", code, letter], cwd=tmp_path) for letter in "ab"]
    seen = set()
    while any(child.poll() is None for child in both):
        content = (tmp_path / "kept").read_bytes()
        assert len(content) == 100_000 and len(set(content)) == 1
        seen.add(content[:1])
        time.sleep(0.001)
    assert all(child.returncode == 0 for child in both) and seen == {b"a", b"b"}
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
