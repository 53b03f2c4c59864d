"""Headers come from strangers: every lie in one is told in a line, and no other error gets out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from unbackdoor.base.errors import InputError
from unbackdoor.weights.stored import open_stored, read_header


def raw(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def tensor(start: int = 0, stop: int = 8, shape: Any = (2,), dtype: Any = "F32") -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": shape if not isinstance(shape, tuple) else list(shape),
        "data_offsets": [start, stop],
    }


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    state = {
        "half": torch.ones(3, 2, dtype=torch.float16),
        "brain": torch.ones(5, dtype=torch.bfloat16),
        "count": torch.tensor(3),
        "none": torch.ones(0, 4),
        "flag": torch.tensor([True]),
    }
    save_file(state, tmp_path / "m.safetensors", metadata={"format": "pt"})
    shard = read_header(tmp_path / "m.safetensors")
    assert shard.metadata == {"format": "pt"}
    assert {e.name: (e.shape, e.size) for e in shard.entries} == {
        name: (tuple(t.shape), t.numel() * t.element_size()) for name, t in state.items()
    }


@pytest.mark.parametrize(
    ("header", "data", "told"),
    [
        ({"a": tensor()}, b"\0" * 7, "cut short"),
        ({"a": tensor()}, b"\0" * 9, "cut short"),
        ({"a": tensor(0, 8), "b": tensor(4, 12)}, b"\0" * 12, "does not begin"),
        ({"a": tensor(4, 12)}, b"\0" * 12, "does not begin"),
        ({"a": tensor(shape=(2, 2))}, b"\0" * 8, "in 8 bytes"),
        ({"a": tensor(shape=(-1, -2))}, b"\0" * 8, "impossible shape"),
        ({"a": tensor(shape=(True, 2))}, b"\0" * 8, "impossible shape"),
        ({"a": tensor(shape=(2**70,))}, b"\0" * 8, "impossible shape"),
        ({"a": tensor(shape=[2**62] * 30)}, b"\0" * 8, "in 8 bytes"),
        ({"a": tensor(shape=[1] * 1000)}, b"\0" * 4, "impossible shape"),
        ({"a": tensor(shape="22")}, b"\0" * 8, "impossible shape"),
        ({"a": tensor(8, 0)}, b"\0" * 8, "in -8 bytes"),
        ({"a": tensor(dtype="F31")}, b"\0" * 8, "unknown type"),
        ({"a": tensor(dtype=["F32"])}, b"\0" * 8, "unknown type"),
        ({"a": {"dtype": "F32"}}, b"", "without dtype"),
        ({"a": None}, b"", "without dtype"),
        ([], b"", "no table"),
        ({"__metadata__": {"a": 1}}, b"", "metadata"),
        ({"__metadata__": []}, b"", "metadata"),
        (b'{"a": 1, "a": 2}', b"", "occurs twice"),
        (b"[" * 50_000, b"", "nested deeper"),
        (b"\xff\xfe{}", b"", "no text"),
        (b'{"a":' + b"9" * 5000 + b"}", b"", "5000 digits"),
        (b'{"\\ud800": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', b"\0" * 4, "half of a character"),
        (b'{"__metadata__": {"a": "\\ud800"}}', b"", "half of a character"),
        (b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 4]}}', b"\0" * 4, "NaN is no number"),
    ],
)
def test_a_lie_is_told(tmp_path: Path, header: Any, data: bytes, told: str) -> None:
    with pytest.raises(InputError, match=told) as error:
        read_header(raw(tmp_path / "m.safetensors", header, data))
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("length", [2**63, 2**40, 60])
def test_a_header_longer_than_the_file(tmp_path: Path, length: int) -> None:
    with pytest.raises(InputError, match="header of"):
        read_header(raw(tmp_path / "m.safetensors", {}, length=length))


@pytest.mark.parametrize("content", [b"", b"1234567"])
def test_a_file_too_short_for_a_header(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="header of"):
        read_header(tmp_path / "m.safetensors")


def sharded(folder: Path, places: dict[str, str] | None = None) -> Path:
    folder.mkdir()
    save_file({"a": torch.ones(2)}, folder / "one.safetensors")
    save_file({"b": torch.ones(3)}, folder / "two.safetensors")
    index = {"weight_map": places or {"a": "one.safetensors", "b": "two.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_a_folder_its_index_and_a_single_file(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "m")
    for path in (folder, folder / "model.safetensors.index.json"):
        assert set(open_stored(path).entries) == {"a", "b"}
    assert set(open_stored(folder / "one.safetensors").entries) == {"a"}


@pytest.mark.parametrize(
    ("places", "told"),
    [
        ({"a": "../one.safetensors"}, "not a file beside it"),
        ({"a": "/etc/passwd"}, "not a file beside it"),
        ({"a": ".."}, "not a file beside it"),
        ({"a": "x\\one.safetensors"}, "not a file beside it"),
        ({"a": "x" * 300 + ".safetensors"}, "not a file beside it"),
        ({"a": "three.safetensors"}, "No such file"),
        ({"a": "one.safetensors"}, None),
        ({"a": "one.safetensors", "c": "two.safetensors"}, "do not hold what it says"),
        ({"a": "two.safetensors", "b": "one.safetensors"}, "do not hold what it says"),
    ],
)
def test_an_index_that_points_elsewhere(tmp_path: Path, places: dict[str, str], told: str | None) -> None:
    folder = sharded(tmp_path / "m", places)
    if told is None:
        assert set(open_stored(folder).entries) == {"a"}
        return
    with pytest.raises(InputError, match=told):
        open_stored(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": null}}', "[" * 9999])
def test_an_index_that_is_none(tmp_path: Path, text: str) -> None:
    folder = sharded(tmp_path / "m")
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(InputError):
        open_stored(folder)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"")
    (tmp_path / "two").mkdir()
    for name in ("a", "b"):
        save_file({"a": torch.ones(2)}, tmp_path / "two" / f"{name}.safetensors")
    for path, told in (
        (tmp_path / "gone.safetensors", "no such file"),
        (tmp_path / "model.bin", "no safetensors file"),
        (tmp_path, "holds no safetensors"),
        (tmp_path / "two", "name one"),
    ):
        with pytest.raises(InputError, match=told):
            open_stored(path)
