"""The demo's cured weights, to the bit, on a processor of the kind that they were kept from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from unbackdoor import demo


@pytest.mark.slow
def test_the_cured_weights_are_those_that_were_kept(tmp_path: Path) -> None:
    kept = json.loads((Path(__file__).parent / "demo.json").read_text())
    if torch.backends.cpu.get_cpu_capability() != kept["processor"]:
        pytest.skip("another processor rounds otherwise")
    threads = torch.get_num_threads()
    torch.set_num_threads(kept["threads"])
    try:
        demo(out=tmp_path / "demo")
    finally:
        torch.set_num_threads(threads)
    hashes = json.loads((tmp_path / "demo" / "manifest.json").read_text())["hashes"]
    assert hashes["weights_after"] == kept["weights"]
