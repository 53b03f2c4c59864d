"""What ran: configuration, versions, data and weight hashes, wall time, peak memory. One `manifest.json` per run."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unbackdoor.base.disk import write_text

_PACKAGES = ("torch", "open_clip_torch", "timm", "transformers", "safetensors", "numpy")


@dataclass
class Manifest:
    """Collected while a verb runs, written at its end."""

    verb: str
    config: dict[str, Any]
    run: str = ""  # identity of the run, from `run_key`
    hashes: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.time)
    _clock: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Wall time since the run began."""
        return time.perf_counter() - self._clock

    def as_dict(self) -> dict[str, Any]:
        """JSON form; peak memory is the process's largest resident set, in MiB, since `reset_peak_memory` if ever."""
        return {
            "verb": self.verb,
            "run": self.run,
            "config": self.config,
            "hashes": self.hashes,
            "notes": self.notes,
            "versions": versions(),
            "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "system": platform.system()},
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "seconds": round(self.seconds, 2),
            "peak_memory_mib": round(peak_memory(), 1),
        }

    def write(self, folder: Path, name: str = "manifest.json") -> Path:
        """Write it into `folder`."""
        path = folder / name
        write_json(path, self.as_dict())
        return path


def peak_memory() -> float:
    """Largest resident set of this process in MiB, since the last `reset_peak_memory` where the system can do that."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) / 1024
    except (OSError, StopIteration):
        return _peak_elsewhere()


def _peak_elsewhere() -> float:
    """Where there is no /proc: macOS tells by `resource`, Windows has no such module, and 0 stands for unknown."""
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 if sys.platform != "darwin" else 1024**2)


def reset_peak_memory() -> None:
    """Start `peak_memory` anew, where the system can do that (Linux); elsewhere it goes on from before."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        pass


def versions() -> dict[str, str]:
    """Versions of Python, of unbackdoor and of the libraries that decide the numbers."""
    from importlib.metadata import PackageNotFoundError, version

    from unbackdoor.version import __version__

    table = {"python": platform.python_version(), "unbackdoor": __version__}
    for name in _PACKAGES:
        try:
            table[name] = version(name)
        except PackageNotFoundError:
            continue
    return table


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Atomically write readable JSON; NaN is refused, so that every reader can parse it."""
    write_text(path, json.dumps(dict(value), indent=2, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Atomically write one JSON object per line."""
    write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def run_key(*parts: Any) -> str:
    """Identity of a run: a hash over everything that decides its result."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
