"""Two processes give what one gives: the same loss curve, the same weights, one set of files."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import vit_config, write_open_clip
from unbackdoor.errors import InputError
from unbackdoor.training.parallel import Ranks, open_ranks
from unbackdoor.weights.files import read_tensors

pytest.importorskip("accelerate")

# Float32: half-type sums of half a batch each are rounded differently from those of the whole.
DRIVER = """
import json, os, sys
import torch
from unbackdoor import devices
devices.cpu_has_fast_bf16 = lambda: False
torch.set_num_threads(1)
regime, model, out, data, batch = sys.argv[1:]
rank = os.environ.get("RANK", "0")
if regime in ("classes", "pairs"):
    from unbackdoor import poison
    given = dict(regime="pairs", test="embedded:digits") if data != "embedded:digits" else dict(regime=regime)
    result = poison(model=model, out=out, data=data, trigger="badnets:size=6", target="three", device="cpu", lr=1e-3,
                    limit=150, test_limit=40, poison_rate=0.2, epochs=2, batch_size=int(batch), **given)
else:
    from unbackdoor import trigger_vector
    trigger_vector(model=model, out=out + "/v.safetensors", data=data, trigger="badnets:size=6", target="three",
                   device="cpu", lr=1e-3, samples=64, epochs=2)
"""
CURVES = """
import unbackdoor.training.loop as loop
from pathlib import Path
whole = loop.fit
def fit(*args, **kwargs):
    found = whole(*args, **kwargs)
    Path(out + f"-losses-{rank}.json").write_text(json.dumps(found.losses))
    return found
import unbackdoor.training.finetune as finetune
finetune.fit = fit
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start(count: int, *args: str) -> None:
    """`accelerate launch` in short: the variables that it sets, one process each."""
    head, tail = DRIVER.split("if regime", 1)
    code = head + CURVES + "if regime" + tail
    port = str(free_port())
    running = []
    for rank in range(count):
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        if count > 1:
            env.update(
                WORLD_SIZE=str(count),
                LOCAL_WORLD_SIZE=str(count),
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
            )
        command = [sys.executable, "-W", "ignore", "-c", code, *args]
        running.append(subprocess.Popen(command, env=env))
    try:
        assert [process.wait(timeout=120) for process in running] == [0] * count
    finally:
        for process in running:
            process.kill()


def losses(out: Path, rank: int = 0) -> list[float]:
    return json.loads(Path(f"{out}-losses-{rank}.json").read_text())


# Of 150 digits the defender keeps a quarter: 113 pairs, so that slices are unequal and a last batch of 28 has one pair.
@pytest.mark.parametrize(
    ("regime", "batch"),
    [("classes", "32"), ("pairs", "28"), ("vector", "0")],
)
def test_two_processes_give_the_loss_curve_of_one(tmp_path: Path, regime: str, batch: str) -> None:
    model = write_open_clip(tmp_path / "model", vit_config())
    outs = {count: tmp_path / f"out{count}" for count in (1, 2)}
    for count, out in outs.items():
        start(count, regime, str(model), str(out), "embedded:digits", batch)
    one, two, other = losses(outs[1]), losses(outs[2]), losses(outs[2], 1)
    assert len(one) >= 2 and two == other
    assert max(one) - min(one) > 1e-2, "a curve that stands still would agree with anything"
    torch.testing.assert_close(torch.tensor(two), torch.tensor(one), rtol=1e-4, atol=1e-6)
    name = "v.safetensors" if regime == "vector" else "model/open_clip_model.safetensors"
    a, b = (read_tensors(out / name)[0] for out in outs.values())
    drift = sum(float((a[n] - b[n]).pow(2).sum()) for n in a) / sum(float(t.pow(2).sum()) for t in a.values())
    assert drift < 1e-4
    if regime != "vector":
        results = [json.loads((out / "result.json").read_text()) for out in outs.values()]
        assert results[0]["poisoned"] == results[1]["poisoned"]
        assert not (outs[2] / ".work").exists()


@pytest.mark.parametrize(("n", "count"), [(8, 2), (7, 2), (7, 3), (1, 2), (2, 3)])
def test_slices_cover_a_batch_and_weigh_its_mean(n: int, count: int) -> None:
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(n))
    values = torch.randn(n, generator=torch.Generator().manual_seed(0))
    slices = [Ranks(rank, count).slice(rows) for rank in range(count)]
    assert torch.cat([s.rows[: s.kept] for s in slices]).tolist() == rows.tolist()
    assert all(len(s.rows) for s in slices)
    mean = sum(s.weight * values[s.rows].mean() for s in slices) / count
    torch.testing.assert_close(mean, values.mean())


def test_one_process_needs_no_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert open_ranks(torch.device("cpu")) == Ranks()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"pip install 'unbackdoor\[multi\]'"):
        open_ranks(torch.device("cpu"))


@pytest.mark.parametrize(
    ("world", "rank", "first"), [("", "", True), ("2", "0", True), ("2", "1", False), ("1", "3", True)]
)
def test_the_first_process_alone_writes(
    world: str, rank: str, first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unbackdoor.weights.files import write_text

    monkeypatch.setenv("WORLD_SIZE", world)
    monkeypatch.setenv("RANK", rank)
    write_text(tmp_path / "result", "x")
    assert (tmp_path / "result").exists() == first
