"""Files of `torch.save`, read as data: what torch gives, tensor by tensor, and only as much as is there."""

from __future__ import annotations

import argparse
import collections
import datetime
import pathlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from unbackdoor import InputError
from unbackdoor.base.notices import collected
from unbackdoor.weights.files import read_checkpoint, read_shapes, write_tensors

GRID = torch.arange(60.0).reshape(6, 10)
TIED = torch.arange(5.0)
NEW_TYPES = (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32, torch.uint64)
OLD_TYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip


def block() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def attributed() -> dict[str, Any]:
    weight = nn.Parameter(torch.ones(2))
    weight.sharded = True  # type: ignore[attr-defined]
    return {"weight": weight, "plain": nn.Parameter(torch.zeros(3), requires_grad=False)}


def training() -> dict[str, Any]:
    model = block()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return {
        "state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "name": "run",
        "args": argparse.Namespace(lr=1e-3, betas=[0.9, 0.98]), "best": np.float64(0.5), "rows": np.arange(4),
        "rng": torch.get_rng_state(), "out": pathlib.Path("logs"), "seen": {1, 2}, "kept": frozenset([3]),
        "when": datetime.datetime(2026, 1, 2), "raw": b"abc", "buffer": bytearray(b"x"), "z": 1j, "long": 2**70,
        "device": torch.device("cpu"), "size": torch.Size([1]), "dtype": torch.float32,
        "lists": collections.defaultdict(list, {"a": [1]}), "counts": collections.Counter("aab"), "five": (1, 2, 3, 4),
    }  # fmt: skip


CONTENTS: dict[str, Callable[[], dict[str, Any]]] = {
    "a module's": lambda: dict(block().state_dict()),
    "an ordered dict": lambda: block().state_dict(),  # type: ignore[dict-item, return-value]
    "views": lambda: {
        "t": GRID.T, "row": GRID[2], "steps": GRID[::2, 1::3], "one": GRID[0, 0],
        "wide": GRID[:, None].expand(6, 2, 10), "empty": torch.empty(0, 3), "far": torch.empty(0, 2**40),
    },
    "tied": lambda: {"a": TIED, "b": TIED, "c": TIED[1:3]},
    "parameters": attributed,
    "types": lambda: {str(d): torch.tensor([0, 1, 2, 3]).to(d) for d in OLD_TYPES},
    "training": training,
}  # fmt: skip


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert set(ours) == set(theirs)
    for name, t in theirs.items():
        assert ours[name].dtype == t.dtype and ours[name].shape == t.shape, name
        assert torch.equal(ours[name].double(), t.detach().double()), name


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("new", [True, False], ids=["zip", "row"])
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_what_torch_saves_is_read_as_torch_reads_it(
    tmp_path: Path, content: Callable[[], dict[str, Any]], new: bool, protocol: int
) -> None:
    path = tmp_path / "m.pt"
    torch.save(content(), path, _use_new_zipfile_serialization=new, pickle_protocol=protocol)
    theirs = torch.load(path, weights_only=False)
    theirs = theirs.get("state_dict", theirs)
    assert_same(read_checkpoint(path), theirs)
    assert read_shapes(path) == {name: tuple(t.shape) for name, t in theirs.items()}


def test_types_without_a_storage_of_their_own(tmp_path: Path) -> None:
    torch.save({str(d): torch.tensor([0, 1, 2]).to(d) for d in NEW_TYPES}, tmp_path / "m.pt")
    assert_same(read_checkpoint(tmp_path / "m.pt"), torch.load(tmp_path / "m.pt"))


def test_tied_tensors_share_memory_and_are_written_apart(tmp_path: Path) -> None:
    torch.save({"a": GRID[:4], "b": GRID[2:], "c": GRID}, tmp_path / "m.pt")
    found = read_checkpoint(tmp_path / "m.pt")
    assert found["a"].untyped_storage().data_ptr() == found["c"].untyped_storage().data_ptr()
    write_tensors(tmp_path / "m.safetensors", found)
    assert_same(load_file(tmp_path / "m.safetensors"), {"a": GRID[:4], "b": GRID[2:], "c": GRID})


def test_only_the_model_of_a_training_run_is_read(tmp_path: Path) -> None:
    """An optimiser whose state is of no use here, sparse for example, is in nobody's way."""
    sparse = torch.sparse_coo_tensor([[0]], [1.0], (5,))
    torch.save({"state_dict": {"w": torch.ones(2)}, "optimizer": {"state": {0: sparse}}}, tmp_path / "m.pt")
    assert_same(read_checkpoint(tmp_path / "m.pt"), {"w": torch.ones(2)})


W, V = torch.ones(2), torch.zeros(2)
WRAPPED: dict[str, Any] = {
    "state_dict": {"state_dict": {"w": W}},
    "model_state_dict": {"model_state_dict": {"w": W}, "optimizer_state_dict": {"s": V}, "loss": V},
    "a model in a state dict": {"state_dict": {"model": {"w": W}}, "epoch": 1},
    "DeepSpeed": {"module": {"w": W}, "optimizer": None, "lr_scheduler": {"x": V}, "global_steps": 3},
    "Lightning": {
        "state_dict": {"w": W}, "callbacks": {"best": {"score": V}}, "optimizer_states": [{"s": V}],
        "loops": {"n": V}, "hyper_parameters": {"t": V}, "pytorch-lightning_version": "2.0.0",
    },
    "a name of its own": {"my_clip": {"w": W}, "step": torch.tensor(3), "args": {}},
    "net": {"net": {"w": W}, "acc": 1.0},
    "weights": {"weights": {"w": W}},
    "five deep": {"state_dict": {"model": {"module": {"net": {"state_dict": {"w": W}}}}}},
    "averages alone": {"ema": {"w": W}, "epoch": 3},
    "DataParallel": {"state_dict": {"module.w": W}},
    "DataParallel twice": {"state_dict": {"module.module.w": W}},
    "compiled": {"_orig_mod.w": W},
    "compiled in DataParallel": {"module._orig_mod.w": W},
    "FSDP": {"_fsdp_wrapped_module.w": W},
    "checkpointed": {"_checkpoint_wrapped_module.w": W},
}  # fmt: skip


@pytest.mark.parametrize("content", WRAPPED.values(), ids=WRAPPED)
def test_wrappers_are_opened(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "m.pt")
    with collected() as warnings:
        assert_same(read_checkpoint(tmp_path / "m.pt"), {"w": W})
    assert warnings == []


AVERAGED = {
    "timm": ({"state_dict": {"w": W}, "state_dict_ema": {"w": V}}, "state_dict_ema"),
    "ema": ({"model": {"w": W}, "ema": {"module": {"w": V}}}, "ema"),
    "teacher": ({"student": {"w": W}, "teacher": {"w": V}}, "teacher"),
}


@pytest.mark.parametrize(("content", "name"), AVERAGED.values(), ids=AVERAGED)
def test_plain_weights_win_over_averages_with_a_word(tmp_path: Path, content: Any, name: str) -> None:
    torch.save(content, tmp_path / "m.pt")
    with collected() as warnings:
        assert_same(read_checkpoint(tmp_path / "m.pt"), {"w": W})
    assert len(warnings) == 1 and f"averaged weights ({name})" in warnings[0]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"model": {"w": W}, "net": {"w": V}}, r"several models \(model, net\)"),
        ({"generator": {"w": W}, "discriminator": {"w": V}}, r"several models \(generator, discriminator\)"),
        ({"ema": {"w": W}, "swa": {"w": V}}, r"several models \(ema, swa\)"),
        ({"_orig_mod.w": W, "w": V}, "holds w twice"),
        ({"state_dict": {"epoch": 3}}, "no state dict of tensors"),
        ([W], "no state dict of tensors"),
        (W, "no state dict of tensors"),
        ({1: W}, "no state dict of tensors"),
    ],
)
def test_what_could_be_meant_twice_or_not_at_all(tmp_path: Path, content: Any, told: str) -> None:
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(InputError, match=told):
        read_checkpoint(tmp_path / "m.pt")


class Own(torch.Tensor):
    """A tensor of a class of its own."""


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # torch's words on kinds that it calls young or old
ODD: dict[str, Callable[[], Any]] = {
    "sparse": lambda: torch.sparse_coo_tensor([[0]], [1.0], (5,)),
    "sparse by rows": lambda: torch.eye(3).to_sparse_csr(),
    "meta": lambda: torch.empty(2, device="meta"),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "complex": lambda: torch.ones(2, dtype=torch.complex64),
    "half complex": lambda: torch.ones(2, dtype=torch.complex32),
    "own": lambda: torch.ones(2).as_subclass(Own),
    "negative": lambda: torch._neg_view(torch.ones(2)),
}


@pytest.mark.parametrize("unpickle", [False, True])
@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_tensors_that_are_no_plain_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[], Any], unpickle: bool
) -> None:
    torch.save({"fine": W, "odd": make()}, tmp_path / "m.pt")
    with pytest.raises(InputError) as error:
        read_checkpoint(tmp_path / "m.pt", unpickle=unpickle)
    assert "odd" in str(error.value) or "Own" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [ODD[k] for k in ODD if k != "negative"], ids=[k for k in ODD if k != "negative"])
def test_they_are_not_written_either(tmp_path: Path, make: Callable[[], Any]) -> None:
    with pytest.raises(InputError, match=r"o\.safetensors: tensor odd is"):
        write_tensors(tmp_path / "o.safetensors", {"fine": W, "odd": make()})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["__metadata__", "\ud800", "a\udfff.weight"])
def test_names_that_the_format_does_not_hold(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="rename it"):
        write_tensors(tmp_path / "o.safetensors", {name: W})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "a b", "line\nbreak", 'quo"te\\', "\x1b[31m", "ünïcode", "n" * 5000])
def test_names_that_it_does(tmp_path: Path, name: str) -> None:
    write_tensors(tmp_path / "o.safetensors", {name: W, "x": torch.tensor(1.0), "e": torch.empty(0, 3)})
    assert torch.equal(load_file(tmp_path / "o.safetensors")[name], W)
    assert read_shapes(tmp_path / "o.safetensors") == {name: (2,), "x": (), "e": (0, 3)}
