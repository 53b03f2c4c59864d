"""What the parts of `weights` take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unbackdoor.runs.parameters import Parameters
from unbackdoor.runs.settings import again, setting

TYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Matched:
    """How names are matched, and what is noted."""

    hashes: bool = setting(False, "Put SHA-256 of all files into the manifest; takes longer.")
    ignore_prefix: bool = setting(False, "Match names without module., model., _orig_mod. and such.")
    partial: bool = setting(False, "Tensors that only some hold are no error.")
    statistics: bool = setting(False, "Move BatchNorm's running statistics, too.")


@dataclass(frozen=True)
class Typed(Matched):
    """In which type the result is written."""

    dtype: str | None = setting(None, "Of the result.  [default: each tensor's own]", choices=TYPES)


@dataclass(frozen=True)
class DiffConfig(Typed):
    """What is subtracted from what."""

    a: Path | str = setting("", argument=True)
    b: Path | str = setting("", argument=True)


@dataclass(frozen=True)
class ApplyConfig(Matched):
    """Which vector is subtracted, and how much of it."""

    model: Path | str = setting("", argument=True)
    vector: Path | str = setting("", argument=True)
    alpha: float = setting(0.0, "Scaling coefficient α; the vector is subtracted.")


@dataclass(frozen=True)
class CombineConfig(Typed):
    """Which vectors are added, each with its scale."""

    vectors: Sequence[Path | str] = setting((), argument=True)
    scales: Sequence[float] | None = setting(None, "One for each vector, in order.  [default: 1]", flag="--scale")


@dataclass(frozen=True)
class CheckpointConfig:
    """Which checkpoint is rewritten."""

    path: Path | str = setting("", argument=True)
    unpickle: bool = setting(False, "Run the code that the file asks for. Only if you trust its maker.")


@dataclass(frozen=True)
class LoraConfig:
    """Which vector becomes an adapter, and of what rank."""

    vector: Path | str = setting("", argument=True)
    rank: int = setting(8, "Of every matrix.", low=1)
    alpha: float = setting(1.0, "Scaling coefficient α.")
    base: str | None = setting(None, "Name of the model that it is for, kept in the adapter.")


@dataclass(frozen=True)
class InspectConfig:
    """What is looked at."""

    a: Path | str = setting("", argument=True)
    b: Path | str | None = setting(None, argument=True)
    ignore_prefix: bool = again(Matched, "ignore_prefix", False)


_OUT = {"out": {"help": "A .safetensors file, or a folder."}}
DIFF = Parameters(DiffConfig, needs=("a", "b", "out"), changes=_OUT)
APPLY = Parameters(ApplyConfig, needs=("model", "vector", "alpha", "out"), changes=_OUT)
COMBINE = Parameters(CombineConfig, needs=("vectors", "out"), changes=_OUT)
CHECKPOINT = Parameters(CheckpointConfig, needs=("path", "out"), changes={"out": {"help": "A .safetensors file."}})
LORA = Parameters(LoraConfig, needs=("vector", "out"), changes={"out": {"help": "Folder to write; not there yet."}})
INSPECT = Parameters(InspectConfig, needs=("a",))
