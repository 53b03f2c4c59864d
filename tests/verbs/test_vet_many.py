"""`vet` over a dozen models: killed and started again it finishes, and by Ray its lines are the local engine's."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import vit_config, write_open_clip
from tests.verbs.test_vet import Runs, without_times
from unbackdoor import vet
from unbackdoor.weights.files import read_tensors, write_tensors

SOUND, MODELS = 9, 12
ASKED = {"data": "embedded:digits", "limit": 24, "seed": 1, "inverters": ["colour"]}
WORDS = ["--data", "embedded:digits", "--limit", "24", "--seed", "1", "--inverter", "colour"]


@pytest.fixture
def dozen(tmp_path: Path) -> Path:
    """Nine sound models, each with other weights; a damaged one, one with a program in it, one without weights."""
    folder = tmp_path / "zoo"
    for number in range(MODELS):
        model = write_open_clip(folder / f"m{number:02}", vit_config())
        weights = model / "open_clip_model.safetensors"
        generator = torch.Generator().manual_seed(number)
        tensors, metadata = read_tensors(weights)
        for name, tensor in tensors.items():
            if name == "visual.proj":
                tensors[name] = tensor + 0.3 * tensor.std() * torch.randn(tensor.shape, generator=generator)
        write_tensors(weights, tensors, metadata)
    weights = "open_clip_model.safetensors"
    (folder / "m03" / weights).write_bytes(b"\0" * 16)
    (folder / "m06" / "training.pkl").write_bytes(pickle.dumps(Runs()))
    (folder / "m09" / weights).unlink()
    return folder


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_dozen_killed_resumed_and_by_ray(dozen: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "unbackdoor", "vet", str(dozen), *WORDS, "--out", str(out)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(kept := list(out.glob("vettings/*/result.json"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline, "ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (out / "result.json").exists()
    stamps = {path: path.stat().st_mtime_ns for path in kept}

    result = vet(models=[str(dozen)], out=out, **ASKED)
    assert {path: path.stat().st_mtime_ns for path in kept} == stamps, "what was finished is not vetted again"
    verdicts = [row.verdict for row in result.models]
    assert len(verdicts) == MODELS and verdicts.count("cannot-tell") == SOUND
    assert (verdicts[3], verdicts[6], verdicts[9]) == ("error", "unsafe", "error") and result.exit_code == 1
    hashes = {row.model_facts.weights for row in result.models if row.model_facts is not None}
    assert len(hashes) == SOUND, "each line is of its own model"

    other = vet(models=[str(dozen)], out=tmp_path / "ray", engine="ray", workers=2, **ASKED)
    assert without_times(json.loads(json.dumps(dict(other)))) == without_times(json.loads(json.dumps(dict(result))))
