"""What files are said to be: hostile ones, harmless ones, and those that only look like one or the other."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from unbackdoor import InputError
from unbackdoor.vetting import files as room
from unbackdoor.vetting.files import files_of


class Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


def torch_file(value: object, *, old: bool = False) -> bytes:
    import io

    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not old)
    return buffer.getvalue()


HOSTILE = {
    "pickle.pkl": (pickle.dumps(Runs()), "system (dangerous)"),
    "in-a-dict.bin": (pickle.dumps({"w": [Runs()]}), "system (dangerous)"),
    "torch.pt": (torch_file({"w": torch.ones(2), "x": Runs()}), "system (dangerous)"),
    "old-torch.pth": (torch_file({"w": torch.ones(2), "x": Runs()}, old=True), "system (dangerous)"),
    "module.ckpt": (torch_file(torch.nn.Linear(2, 2)), "torch.nn.modules.linear.Linear (unknown)"),
    # Instructions that our reader of checkpoints does not follow to their end.
    "inst.bin": (b"(S'id'\nios\nsystem\n.", "os.system (dangerous)"),
    "dup.pkl": (b"N2cos\nsystem\n(S'id'\ntR.", "os.system (dangerous)"),
    "extension.pkl": (b"N2\x82\x01)R.", "a name that is put together while it runs (unknown)"),
    "stack.pkl": (b"\x80\x04N2\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.", "put together while it runs"),
}
HARMLESS = {
    "plain.pkl": (pickle.dumps({"a": [1, 2.0, "x"]}), "pkl"),
    "tensors.pt": (torch_file({"w": torch.ones(2)}), "torch"),
    "old.pth": (torch_file({"w": torch.ones(2)}, old=True), "torch"),
    "noise.bin": (bytes(range(256)) * 8, "bin"),
    "empty.bin": (b"", "bin"),
    "weights.safetensors": (b"", "safetensors"),
    "net.onnx": (b"cos\nsystem\n(S'id'\ntR.", "onnx"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_would_run_code(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, part = HOSTILE[name]
    (tmp_path / name).write_bytes(content)
    (facts,) = files_of(str(tmp_path))
    assert (
        facts.unsafe is not None and part in facts.unsafe and facts.unsafe.startswith("is a pickle that would import")
    )
    assert facts.imports and facts.sha256 == hashlib.sha256(content).hexdigest() and facts.bytes == len(content)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", HARMLESS)
def test_a_file_that_would_not(name: str, tmp_path: Path) -> None:
    content, form = HARMLESS[name]
    (tmp_path / name).write_bytes(content)
    (facts,) = files_of(str(tmp_path))
    assert (facts.unsafe, facts.imports, facts.format, facts.role) == (None, (), form, "weights")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"auto_map": {"AutoModel": "code.Model"}}, "auto_map"),
        ({"vision_config": {"x": [{"trust_remote_code": True}]}}, "trust_remote_code"),
        ({"trust_remote_code": False, "auto_map": {}}, None),
        ({"model_type": "clip"}, None),
    ],
)
def test_a_configuration_that_names_code(content: dict[str, object], named: str | None, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "code.py").write_text("1")
    unsafe = {f.role: f.unsafe for f in files_of(str(tmp_path)) if f.unsafe}
    assert unsafe == ({"configuration": f"names code to be run ({named})"} if named else {})
    assert ("code", None) in [(f.role, f.unsafe) for f in files_of(str(tmp_path))], "the program itself is told of"


def test_an_output_folder_an_adapter_and_a_checkpoint(tmp_path: Path) -> None:
    base, adapter, alone = tmp_path / "base", tmp_path / "adapter", tmp_path / "x.safetensors"
    (base / "model").mkdir(parents=True)
    adapter.mkdir()
    for path in (base / "model" / "model.safetensors", adapter / "adapter_model.safetensors", alone):
        save_file({"w": torch.ones(1)}, path)
    (adapter / "adapter_config.json").write_text("{}")
    assert [(Path(f.path).name, f.role) for f in files_of(str(base))] == [("model.safetensors", "weights")]
    both = files_of(f"adapter:{adapter}@{base}")
    assert [(Path(f.path).name, f.role) for f in both] == [
        ("adapter_model.safetensors", "adapter"),
        ("model.safetensors", "base"),
    ]
    assert [f.path for f in files_of("ViT-B-32", alone)] == [str(alone)]
    assert [f.path for f in files_of(str(alone))] == [str(alone)]
    assert [Path(f.path).name for f in files_of("embedded")] == ["open_clip_model.safetensors"]
    assert files_of("random:ViT-B-32") == files_of(str(tmp_path / "none")) == ()


def test_pipes_and_crowds_are_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "model.bin")
    (tmp_path / "loop.bin").symlink_to("loop.bin")
    assert files_of(str(tmp_path)) == ()
    monkeypatch.setattr(room, "_MOST_FILES", 1)
    with pytest.raises(InputError, match="more than 1 files"):
        files_of(str(tmp_path))
