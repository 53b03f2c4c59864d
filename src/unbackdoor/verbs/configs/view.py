"""What `view` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unbackdoor.runs.parameters import Parameters
from unbackdoor.runs.settings import setting


@dataclass(frozen=True)
class ViewConfig:
    """What is served, and where."""

    folder: Path | str = setting("", argument=True)
    port: int = setting(8765, "Port of 127.0.0.1; 0 takes any that is free.", low=0, high=65535)
    no_browser: bool = setting(False, "Print the address alone, and open no browser.")


VIEW = Parameters(ViewConfig, needs=("folder",))
