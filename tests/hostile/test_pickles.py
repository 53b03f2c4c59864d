"""A checkpoint that is a program is told by name and never run, unless the user says so."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from unbackdoor.base.errors import InputError
from unbackdoor.cli.main import run
from unbackdoor.verbs.weights import convert
from unbackdoor.weights.files import read_checkpoint


class Bomb:
    def __reduce__(self):  # type: ignore[no-untyped-def]
        return os.mkdir, ("bomb-went-off",)


class Hidden:
    """The same through a chain that names no function of `os`."""

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return eval, ("__import__('os').mkdir('bomb-went-off')",)


def zipped(path: Path, payload: object) -> Path:
    torch.save({"w": torch.zeros(2), "x": payload}, path)
    return path


def legacy(path: Path, payload: object) -> Path:
    torch.save({"w": torch.zeros(2), "x": payload}, path, _use_new_zipfile_serialization=False)
    return path


def bare(path: Path, payload: object) -> Path:
    path.write_bytes(pickle.dumps({"w": 1, "x": payload}))
    return path


def twice(path: Path, payload: object) -> Path:
    """A harmless state dict, then the bomb, in one file."""
    path.write_bytes(pickle.dumps({"w": 1}) + pickle.dumps(payload))
    return path


@pytest.mark.parametrize("write", [zipped, legacy, bare])
@pytest.mark.parametrize("payload", [Bomb(), Hidden()], ids=["function", "eval"])
def test_a_bomb_is_told_by_name_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write, payload) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "suspect.pt", payload)
    with pytest.raises(InputError, match=r"would import .*(mkdir|eval) \(dangerous\)") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value) and "--unpickle suspect.pt" in str(error.value)
    assert not (tmp_path / "bomb-went-off").exists()
    with pytest.raises(InputError):
        convert(path, out=tmp_path / "o.safetensors")
    assert not (tmp_path / "bomb-went-off").exists() and not (tmp_path / "o.safetensors").exists()


def test_what_follows_a_harmless_pickle_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        read_checkpoint(twice(tmp_path / "suspect.pt", Bomb()))
    assert not (tmp_path / "bomb-went-off").exists()


def test_the_flag_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        run(["weights", "convert", str(zipped(tmp_path / "s.pt", Bomb())), "--unpickle", "--out", "o.safetensors"]) == 0
    )
    assert (tmp_path / "bomb-went-off").exists()
    assert torch.equal(load_file(tmp_path / "o.safetensors")["w"], torch.zeros(2))


def test_a_whole_module_becomes_its_state_dict(tmp_path: Path) -> None:
    torch.save({"model": torch.nn.Linear(3, 2), "epoch": 4}, tmp_path / "m.pt")
    with pytest.raises(InputError, match="would import"):
        read_checkpoint(tmp_path / "m.pt")
    convert(tmp_path / "m.pt", out=tmp_path / "o.safetensors", unpickle=True)
    assert set(load_file(tmp_path / "o.safetensors")) == {"weight", "bias"}


def test_plain_tensors_need_no_flag(tmp_path: Path) -> None:
    torch.save({"state_dict": {"module.w": torch.ones(3)}}, tmp_path / "m.pt")
    convert(tmp_path / "m.pt", out=tmp_path / "o.safetensors")
    assert torch.equal(load_file(tmp_path / "o.safetensors")["w"], torch.ones(3))


def truncated() -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(1000)}, buffer)
    return buffer.getvalue()[:700]


def climbing() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("../../escaped/data.pkl", pickle.dumps({}))
        file.writestr("../../escaped/version", "3\n")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80", b"\x80\x04.", b"not a pickle", b"PK\x03\x04", os.urandom(2000), truncated(), climbing(),
     pickle.dumps([1, 2]), b"\x80\x02" + b"(" * 100_000 + b"."],
    ids=["empty", "one byte", "no content", "text", "cut zip", "noise", "truncated", "climbing", "a list", "deep"],
)  # fmt: skip
@pytest.mark.parametrize("unpickle", [False, True])
def test_damage_ends_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, unpickle: bool) -> None:
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    (inside / "m.pt").write_bytes(content)
    with pytest.raises(InputError) as error:
        read_checkpoint(inside / "m.pt", unpickle=unpickle)
    assert "\n" not in str(error.value) and len(str(error.value)) < 700
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "b", "m.pt"]
