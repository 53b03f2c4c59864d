"""`kill -9` during poisoning, vector taking and unlearning: started again, each reaches the unbroken run's weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import vit_config, write_open_clip
from unbackdoor.weights.files import read_tensors

DRIVER = """
import sys
import torch
from unbackdoor import poison, trigger_vector, unlearn
from unbackdoor.unlearning.alpha import AlphaConfig
torch.set_num_threads(1)
stage, model, out = sys.argv[1:]
shared = dict(data="embedded:digits", trigger="badnets:size=6", target="three", lr=1e-3)
if stage == "poison":
    poison(model=model, out=out + "/p", limit=400, test_limit=40, poison_rate=0.2, epochs=16, batch_size=64, **shared)
if stage == "vector":
    trigger_vector(model=out + "/p", out=out + "/v.safetensors", samples=128, epochs=30, **shared)
if stage == "unlearn":
    rule = AlphaConfig(grid=(0.1, 0.2, 0.3, 0.5, 0.7, 1.0), tolerance=0.0)
    unlearn(model=out + "/p", vector=out + "/v.safetensors", out=out + "/u", alpha_config=rule, **shared)
"""
MARKERS = {
    "poison": "p/.work/poison.checkpoint",
    "vector": ".v.safetensors.work/vector.checkpoint",
    "unlearn": "u/.work/alpha-*",
}
RESULTS = {
    "poison": "p/model/open_clip_model.safetensors",
    "vector": "v.safetensors",
    "unlearn": "u/model/open_clip_model.safetensors",
}


def start(stage: str, model: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "ignore", "-c", DRIVER, stage, str(model), str(out)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})


def run(stage: str, model: Path, out: Path) -> None:
    assert start(stage, model, out).wait(timeout=120) == 0


def kill_in_the_middle(stage: str, model: Path, out: Path) -> None:
    process = start(stage, model, out)
    deadline = time.monotonic() + 120
    while not list(out.glob(MARKERS[stage])):
        assert process.poll() is None and time.monotonic() < deadline, f"{stage} ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, f"{stage} was over before it could be killed"
    assert not (out / RESULTS[stage]).exists()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_killed_runs_reach_the_same_weights(tmp_path: Path) -> None:
    model = write_open_clip(tmp_path / "model", vit_config())
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    for stage in MARKERS:
        run(stage, model, whole)
        kill_in_the_middle(stage, model, broken)
        run(stage, model, broken)
        a, b = (read_tensors(folder / RESULTS[stage])[0] for folder in (whole, broken))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[n], b[n]) for n in a), stage
        assert not list(broken.glob(MARKERS[stage])), "checkpoints are removed when the run ends well"
