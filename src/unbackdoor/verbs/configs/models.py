"""What `convert`, `info` and `demo` take."""

from __future__ import annotations

from dataclasses import dataclass

from unbackdoor.runs.parameters import Parameters
from unbackdoor.runs.settings import setting

FORMS = ("hf", "open_clip")


@dataclass(frozen=True)
class ConvertConfig:
    """Into which form a model is written."""

    to: str = setting("", "The form that is wanted.", choices=FORMS)


@dataclass(frozen=True)
class Nothing:
    """Of a verb without settings of its own."""


CONVERT = Parameters(
    ConvertConfig,
    needs=("model", "to", "out"),
    takes=("checkpoint", "device"),
    changes={"out": {"help": "Folder to write; not there yet."}},
)
INFO = Parameters(
    Nothing,
    needs=(),
    takes=("model", "data", "trigger", "checkpoint", "classes"),
    changes={
        "model": {"default": None, "help": "Model reference or output folder."},
        "data": {"default": None, "help": "Data source."},
        "trigger": {"help": "Trigger spec."},
    },
)
DEMO = Parameters(
    Nothing, needs=(), takes=("out", "seed"), changes={"out": {"default": "unbackdoor-demo", "help": None}}
)
