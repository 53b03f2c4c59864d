"""What `push` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unbackdoor.runs.parameters import Parameters
from unbackdoor.runs.settings import setting


@dataclass(frozen=True)
class PushConfig:
    """What is uploaded, and whereto."""

    folder: Path | str = setting("", argument=True)
    repository: str = setting("", argument=True)
    public: bool = setting(False, "Let everybody see it; by default the repository is private.")


PUSH = Parameters(PushConfig, needs=("folder", "repository"))
