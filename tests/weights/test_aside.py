from __future__ import annotations

import errno
import gc
import tempfile
import warnings
from typing import Any

import pytest
import torch

from unbackdoor.weights import aside
from unbackdoor.weights.aside import Aside
from unbackdoor.weights.vector import Walk, snapshot


def tensors() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {
        "plain": torch.randn(5, 3, generator=g),
        "half": torch.randn(4, generator=g).bfloat16(),
        "number": torch.tensor(2.5),
        "none": torch.empty(0, 3),
        "counts": torch.arange(7),
        "turned": torch.randn(3, 4, generator=g).T,
        "channels": torch.randn(2, 3, 4, 4, generator=g).to(memory_format=torch.channels_last),
    }


@pytest.mark.parametrize("large", [0, 10**9], ids=["in a file", "in memory"])
def test_what_was_put_aside_comes_back_as_it_was(large: int) -> None:
    live = tensors()
    kept = Aside(live, large)
    assert (kept._file is not None) == (large == 0) and bool(kept._kept) == (large > 0)
    for t in live.values():
        t.zero_()
    for name, t in tensors().items():
        back = kept.fetch(name, live[name])
        assert back.dtype == t.dtype and torch.equal(back, t), name


def test_a_full_temporary_folder_leaves_them_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, *_: Any, **__: Any) -> None:
            self.file = open_file(buffering=0)

        def tell(self) -> int:
            return self.file.tell()

        def write(self, part: memoryview) -> int:
            if self.file.tell() > 20:
                raise OSError(errno.ENOSPC, "no space left on device")
            return self.file.write(part[:8])

        def close(self) -> None:
            self.file.close()

    open_file: Any = tempfile.TemporaryFile
    monkeypatch.setattr(aside.tempfile, "TemporaryFile", Full)
    kept = Aside(tensors(), 0)
    assert all(torch.equal(kept.fetch(name, t), t) for name, t in tensors().items())


def test_short_writes_are_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    open_file: Any = tempfile.TemporaryFile

    def short(*_: Any, **__: Any) -> Any:
        file = open_file(buffering=0)

        class Short:
            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

            def write(self, part: memoryview) -> int:
                return file.write(part[:5])

        return Short()

    monkeypatch.setattr(aside.tempfile, "TemporaryFile", short)
    kept = Aside(tensors(), 0)
    assert all(torch.equal(kept.fetch(name, t), t) for name, t in tensors().items())


def test_a_large_walk_ends_exactly_and_leaves_no_file_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "LARGE", 0)
    theta = {name: t for name, t in tensors().items() if t.is_floating_point()}
    start = snapshot(theta)
    tau = {name: torch.ones_like(t) for name, t in theta.items()}
    walk = Walk(theta, tau)
    assert walk._start._file is not None
    for alpha in (0.5, 3.0, 0.7):
        walk.to(alpha)
    walk.settle(0.7)
    for name, t in theta.items():
        assert torch.equal(t, torch.add(start[name].to(t), tau[name], alpha=-0.7)), name
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        file = walk._start._file
        del walk
        gc.collect()
        assert file.closed
