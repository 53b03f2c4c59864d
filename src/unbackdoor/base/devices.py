"""Where to compute and in which type, and which of several processes this one is: the one place that decides."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING

from unbackdoor.base.errors import InputError

if TYPE_CHECKING:
    import torch


def process_count() -> int:
    """How many processes share this run, as `accelerate launch` and `torchrun` tell in the environment; 1 without."""
    return max(1, int(os.environ.get("WORLD_SIZE") or 1))


def process_rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK") or 0) if process_count() > 1 else 0


def is_first_process() -> bool:
    """Whether this process is the one that writes files and shows progress."""
    return process_rank() == 0


def keep_freed_memory() -> None:
    """Ask glibc to keep blocks of up to 32 MB, and 512 MB in all, instead of giving them back to the system.

    A batch of pixels or activations is freed and asked for again at every step, and the system hands out zeroed pages:
    a whole cure on a CPU takes an eighth longer. For the command line, whose process is its own, and, through the
    environment, its workers; what the user has set stays. Elsewhere than under glibc nothing happens.
    """
    import ctypes

    if os.environ.keys() & {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"}:
        return
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    for name, option, value in (("MMAP", -3, 32 << 20), ("TRIM", -1, 512 << 20)):
        set_option(option, value)
        os.environ[f"MALLOC_{name}_THRESHOLD_"] = str(value)


def pick_device(name: str = "auto") -> torch.device:
    """`auto` takes cuda, then mps, then cpu; of several processes on a machine each takes its own GPU.

    Raises:
        InputError: a device that torch does not know or that this machine lacks.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and process_count() > 1:
        name = f"cuda:{os.environ.get('LOCAL_RANK') or 0}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()  # meta has tensors without values
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); try auto or cpu"
        ) from None
    return device


@lru_cache(maxsize=1)
def cpu_has_fast_bf16() -> bool:
    """Whether bfloat16 products run in hardware on this CPU; without it they are hundreds of times slower."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = file.read()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def half_type(device: torch.device) -> torch.dtype | None:
    """The half type in which this device computes faster than in float32, None where there is none."""
    import torch

    fast = cpu_has_fast_bf16() if device.type == "cpu" else device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if fast else None
