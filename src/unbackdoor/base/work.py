"""Where a run keeps what it has done so far, so that a killed one goes on."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from unbackdoor.base.devices import is_first_process


@dataclass(frozen=True)
class Stage:
    """One training of a run, and where a killed one goes on.

    Args:
        label: what people read of it, in the progress bar and in errors.
        checkpoint: file to resume from and to write to; whoever stores the run's result removes it. None keeps nothing.
        key: identity of the run; a checkpoint of another one is refused.
    """

    label: str = "training"
    checkpoint: Path | None = None
    key: str = ""


@dataclass(frozen=True)
class Work:
    """A folder, and the identity of the run that its files belong to.

    Args:
        folder: where files lie; None keeps nothing.
        key: of the run.
    """

    folder: Path | None = None
    key: str = ""

    def stage(self, name: str, label: str = "") -> Stage:
        """The training called `name`, told to people as `label`; its checkpoint holds the run's key itself."""
        return Stage(label or name, None if self.folder is None else self.folder / f"{name}.checkpoint", self.key)

    def file(self, name: str) -> Path | None:
        """File of one part of the run, the key in its name."""
        return None if self.folder is None else self.folder / f"{name}-{self.key[:16]}"

    def log(self, name: str) -> Path | None:
        """Lines of what is finished of one stage, the key in the file's name."""
        return None if self.folder is None else self.folder / f"{name}-{self.key[:16]}.jsonl"

    def part(self, name: str) -> Work:
        """For a part that keeps files of the same names."""
        return Work(None if self.folder is None else self.folder / name, self.key)

    def remove(self) -> None:
        """Throw everything away, once the result is stored; of several processes of one run, the first does."""
        if self.folder is not None and is_first_process():
            shutil.rmtree(self.folder, ignore_errors=True)


NOWHERE = Work()
