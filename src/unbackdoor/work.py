"""Where a run keeps what it has done so far, so that a killed one goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Work:
    """A folder, and the identity of the run that its files belong to.

    Args:
        folder: where files lie; None keeps nothing.
        key: of the run.
    """

    folder: Path | None = None
    key: str = ""

    def checkpoint(self, name: str) -> Path | None:
        """File for the checkpoint of one stage, which holds the run's key itself."""
        return None if self.folder is None else self.folder / f"{name}.checkpoint"

    def file(self, name: str) -> Path | None:
        """File of one part of the run, the key in its name."""
        return None if self.folder is None else self.folder / f"{name}-{self.key[:16]}"

    def log(self, name: str) -> Path | None:
        """Lines of what is finished of one stage, the key in the file's name."""
        return None if self.folder is None else self.folder / f"{name}-{self.key[:16]}.jsonl"

    def part(self, name: str) -> Work:
        """For a part that keeps files of the same names."""
        return Work(None if self.folder is None else self.folder / name, self.key)


NOWHERE = Work()
