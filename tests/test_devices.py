from __future__ import annotations

import ast
import os
import subprocess
import sys

import pytest

KEPT = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(512 << 20)}
PROBE = """
import os, resource
from unbackdoor.base.devices import keep_freed_memory
keep_freed_memory()
import numpy
numpy.ones(2_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    numpy.ones(2_000_000)  # 16 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print({k: v for k, v in os.environ.items() if k.startswith("MALLOC_")})
"""


def probe(**given: str) -> tuple[int, dict[str, str]]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")} | given
    done = subprocess.run([sys.executable, "-c", PROBE], env=env, capture_output=True, text=True, check=True)
    faults, told = done.stdout.splitlines()
    return int(faults), ast.literal_eval(told)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_freed_memory_is_kept_and_workers_are_told_but_what_the_user_set_stays() -> None:
    faults, told = probe()
    assert told == KEPT
    others, theirs = probe(MALLOC_MMAP_THRESHOLD_="100000")
    assert theirs == {"MALLOC_MMAP_THRESHOLD_": "100000"}
    assert 3 * faults < others  # page faults of fifty rounds
