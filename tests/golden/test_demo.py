"""The demo's cured weights, to the bit, on processors of the kinds that they were kept from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from unbackdoor import demo


def processor() -> str:
    """What decides how sums are cut and rounded: the kind of processor, its caches and what torch uses of it."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    parts = [
        re.search(rf"^{name}\s*:\s*(.*)$", text, re.M) for name in ("cpu family", "model", "stepping", "cache size")
    ]
    return ", ".join([torch.backends.cpu.get_cpu_capability(), *(part[1] if part else "?" for part in parts)])


@pytest.mark.slow
def test_the_cured_weights_are_those_that_were_kept(tmp_path: Path) -> None:
    kept = json.loads((Path(__file__).parent / "demo.json").read_text())
    if processor() not in kept["weights"]:
        pytest.skip(f"nothing is kept from a processor such as {processor()}, which may round otherwise")
    threads = torch.get_num_threads()
    torch.set_num_threads(kept["threads"])
    try:
        demo(out=tmp_path / "demo")
    finally:
        torch.set_num_threads(threads)
    hashes = json.loads((tmp_path / "demo" / "manifest.json").read_text())["hashes"]
    assert hashes["weights_after"] == kept["weights"][processor()]
