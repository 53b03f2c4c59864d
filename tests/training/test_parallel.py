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
from unbackdoor.base.errors import InputError
from unbackdoor.training.parallel import Ranks, open_ranks
from unbackdoor.weights.files import read_tensors

pytest.importorskip("accelerate")

# Float32: half-type sums of half a batch each are rounded differently from those of the whole.
DRIVER = """
import json, os, sys
from pathlib import Path
import torch
from unbackdoor import poison, trigger_vector
from unbackdoor.base import devices
from unbackdoor.training import finetune, loop
devices.cpu_has_fast_bf16 = lambda: False
torch.set_num_threads(1)
model, out = sys.argv[1:]

def fit(*args, **kwargs):
    found = loop.fit(*args, **kwargs)
    with open(f"{out}-losses-{os.environ.get('RANK', 0)}.jsonl", "a") as file:
        file.write(json.dumps(found.losses) + "\\n")
    return found

finetune.fit = fit
given = dict(model=model, data="embedded:digits", trigger="badnets:size=6", target="three", device="cpu", lr=1e-3)
# Of 150 digits the defender keeps a quarter: 113 make unequal slices and, in batches of 28, a last one of one pair.
sizes = dict(limit=150, test_limit=40, poison_rate=0.2, epochs=2)
poison(out=out + "/classes", batch_size=32, **sizes, **given)
poison(out=out + "/pairs", batch_size=28, regime="pairs", **sizes, **given)
trigger_vector(out=out + "/vector.safetensors", method="distilled", samples=64, epochs=2, **given)
trigger_vector(out=out + "/lora.safetensors", method="lora", samples=64, epochs=8, **{**given, "lr": 0.3})
"""
FILES = {
    "classes": "classes/model/open_clip_model.safetensors",
    "pairs": "pairs/model/open_clip_model.safetensors",
    "vector": "vector.safetensors",
    "lora": "lora.safetensors",
}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start(count: int, *args: str) -> None:
    """`accelerate launch` in short: the variables that it sets, one process each."""
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
        command = [sys.executable, "-W", "ignore", "-c", DRIVER, *args]
        running.append(subprocess.Popen(command, env=env))
    try:
        assert [process.wait(timeout=300) for process in running] == [0] * count
    finally:
        for process in running:
            process.kill()


def losses(out: Path, rank: int = 0) -> list[list[float]]:
    return [json.loads(line) for line in Path(f"{out}-losses-{rank}.jsonl").read_text().splitlines()]


def test_two_processes_give_the_loss_curves_of_one(tmp_path: Path) -> None:
    model = write_open_clip(tmp_path / "model", vit_config())
    alone, together = tmp_path / "alone", tmp_path / "together"
    start(1, str(model), str(alone))
    start(2, str(model), str(together))
    assert losses(together, 0) == losses(together, 1)
    for name, one, two in zip(FILES, losses(alone), losses(together), strict=True):
        assert len(one) >= 2 and max(one) - min(one) > 1e-2, "a curve that stands still would agree with anything"
        torch.testing.assert_close(torch.tensor(two), torch.tensor(one), rtol=1e-4, atol=1e-6, msg=name)
        a, b = (read_tensors(out / FILES[name])[0] for out in (alone, together))
        drift = sum(float((a[n] - b[n]).pow(2).sum()) for n in a) / sum(float(t.pow(2).sum()) for t in a.values())
        assert drift < 1e-4, name
    for name in ("classes", "pairs"):
        results = [json.loads((out / name / "result.json").read_text()) for out in (alone, together)]
        assert results[0]["poisoned"] == results[1]["poisoned"]
        assert not (together / name / ".work").exists()


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
    from unbackdoor.base.disk import write_text

    monkeypatch.setenv("WORLD_SIZE", world)
    monkeypatch.setenv("RANK", rank)
    write_text(tmp_path / "result", "x")
    assert (tmp_path / "result").exists() == first
