"""The command line itself: numbers, names and paths that nobody should give."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.hostile.suite.made import ESCAPES, open_clip_model
from tests.hostile.suite.runner import Entry

E = ["evaluate", "--model", "m", "--data", "embedded:digits", "--limit", "8"]
A = ["--trigger", "badnets:size=4", "--target", "three"]
U = [
    "unlearn", "--model", "m", "--data", "embedded:digits", "--test-limit", "8", "--samples", "4", "--epochs", "1", *A,
    "--out", "out",
]  # fmt: skip
P = [
    "poison", "--model", "m", "--data", "embedded:digits", "--limit", "32", "--test-limit", "8", "--epochs", "1", *A,
    "--out", "out",
]  # fmt: skip
S = ["scan", "--model", "m", "--data", "embedded:digits", "--limit", "16", "--inverter", "collapse"]


def _flags(
    name: str, arguments: list[str], codes: tuple[int, ...] = (2,), before: Callable[[Path], object] | None = None
) -> Entry:
    def make(folder: Path) -> list[str]:
        open_clip_model(folder / "m")
        if before is not None:
            before(folder)
        return arguments

    return Entry(f"flags {name}", make, codes)


_LINES: list[tuple[str, list[str]]] = [
    ("a limit of nought", [*E, "--limit", "0"]),
    ("a limit below nought", [*E, "--limit", "-1"]),
    ("a limit in words", [*E, "--limit", "many"]),
    ("a huge seed", [*E, "--seed", "9" * 30]),
    ("a seed below nought", [*E, "--seed", "-" + "9" * 30]),
    ("a trigger without a target", [*E, "--trigger", "badnets"]),
    ("a target without a trigger", [*E, "--target", "three"]),
    ("a target with escapes", [*E, "--trigger", "badnets:size=4", "--target", ESCAPES]),
    ("a target of a huge number", [*E, "--trigger", "badnets:size=4", "--target", "9" * 5000]),
    ("a model of nothing", ["info", "--model", ""]),
    ("a model with escapes", ["info", "--model", ESCAPES]),
    ("a model of a huge name", ["info", "--model", "x" * 100_000]),
    ("a model of a device", ["info", "--model", "/dev/zero"]),
    ("a model of a file", ["info", "--model", "m/open_clip_config.json"]),
    ("a model of a folder without one", ["info", "--model", "."]),
    ("an adapter of nothing", ["info", "--model", "adapter:"]),
    ("an adapter on itself", ["info", "--model", "adapter:m@adapter:m@adapter:m"]),
    ("a random giant", ["info", "--model", "random:no-such-model"]),
    ("a checkpoint beside a folder", ["info", "--model", "m", "--checkpoint", "x"]),
    ("a checkpoint that is not there", ["info", "--model", "ViT-B-32", "--checkpoint", "none.pt"]),
    ("a checkpoint of a device", ["info", "--model", "ViT-B-32", "--checkpoint", "/dev/zero"]),
    ("a checkpoint of a folder", ["info", "--model", "ViT-B-32", "--checkpoint", "m"]),
    ("a device unknown", [*E, "--device", "evil"]),
    ("a device with escapes", [*E, "--device", ESCAPES]),
    ("a device of no tensors", [*E, "--device", "meta"]),
    ("data of nothing", ["info", "--data", ""]),
    ("data of an unknown kind", ["info", "--data", "evil:x"]),
    ("data of a kind alone", ["info", "--data", "csv:"]),
    ("data of an unknown split", ["info", "--data", "embedded:digits#evil"]),
    ("data of a NUL", ["info", "--data", "csv:a\0b"]),
    ("data with escapes", ["info", "--data", f"csv:{ESCAPES}"]),
    ("data of a huge name", ["info", "--data", "folder:" + "x" * 100_000]),
    ("α not a number", [*U, "--alpha", "nan"]),
    ("α without end", [*U, "--alpha", "inf"]),
    ("α in words", [*U, "--alpha", "much"]),
    ("a grid of words", [*U, "--alpha-grid", "a,b"]),
    ("a grid not a number", [*U, "--alpha-grid", "nan,1"]),
    ("a tolerance not a number", [*U, "--tolerance", "nan"]),
    ("a tolerance of two", [*U, "--tolerance", "2"]),
    ("a floor not a number", [*U, "--floor", "nan"]),
    ("a floor of two", [*U, "--floor", "2"]),
    ("a rate not a number", [*U, "--lr", "nan"]),
    ("a rate without end", [*U, "--lr", "inf"]),
    ("a rate below nought", [*U, "--lr", "-1"]),
    ("samples of nought", [*U, "--samples", "0"]),
    ("epochs of nought", [*U, "--epochs", "0"]),
    ("a vector that is not there", [*U, "--vector", "none"]),
    ("a vector of a folder", [*U, "--vector", "m"]),
    ("a null without a scan", [*U, "--null", "x"]),
    ("a poison rate of nought", [*P, "--poison-rate", "0"]),
    ("a poison rate of two", [*P, "--poison-rate", "2"]),
    ("a poison rate not a number", [*P, "--poison-rate", "nan"]),
    ("a batch of nought", [*P, "--batch-size", "0"]),
    ("a captions file without pairs", [*P, "--captions", "x"]),
    ("a false-alarm rate of nought", [*S, "--false-alarm-rate", "0"]),
    ("a false-alarm rate not a number", [*S, "--false-alarm-rate", "nan"]),
    ("an inverter unknown", [*S, "--inverter", "evil"]),
    ("an inverter of a module", [*S, "--inverter", "os"]),
    ("an origin of another kind", [*S, "--origin", "embedded"]),
    ("an origin that is not there", [*S, "--origin", "none/x"]),
    ("templates that are not there", [*E, "--templates", "none.txt"]),
    ("classes that are not there", [*E, "--classes", "none.txt"]),
    ("an unknown command", ["evil"]),
    ("an unknown option", ["info", "--evil"]),
    ("an option with escapes", ["info", f"--{ESCAPES}"]),
    ("nothing to describe", ["info"]),
    ("a conversion to nothing", ["convert", "--model", "m", "--to", "evil", "--out", "out"]),
    ("a conversion to its own form", ["convert", "--model", "m", "--to", "open_clip", "--out", "out"]),
    (
        "a map of one point",
        [
            "disentangle",
            "--model",
            "m",
            "--clean",
            "x",
            "--triggered",
            "x",
            "--data",
            "embedded:digits",
            *A,
            "--points",
            "1",
            "--out",
            "out",
        ],
    ),
    (
        "a map not a number",
        [
            "disentangle",
            "--model",
            "m",
            "--clean",
            "m",
            "--triggered",
            "m",
            "--data",
            "embedded:digits",
            *A,
            "--low",
            "nan",
            "--out",
            "out",
        ],
    ),
    (
        "a place not a number",
        ["locate", "--model", "m", "--vector", "m", "--data", "embedded:digits", *A, "--alpha", "nan", "--out", "out"],
    ),
    (
        "steps of nought",
        ["craft", "--model", "m", "--data", "embedded:digits", "--target", "three", "--steps", "0", "--out", "out"],
    ),
    ("a rank of nought", ["weights", "lora", "m/open_clip_model.safetensors", "--rank", "0", "--out", "out"]),
    ("an unknown arithmetic", ["weights", "evil"]),
]


def _readonly(folder: Path) -> None:
    (folder / "out").touch()


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "out")


ENTRIES = [
    *(_flags(name, arguments) for name, arguments in _LINES),
    *(
        _flags(f"an output that is a {what}, of {command[0]}", [*command[:-1], "out"], (2,), before)
        for what, before in (("file", _readonly), ("pipe", _pipe))
        for command in (U, P, [*S, "--out", "out"])
    ),
    _flags("an output below a file", [*P[:-1], "m/open_clip_config.json/out"]),
    _flags("an output of a device", [*P[:-1], "/dev/null"]),
    _flags("an output with a NUL", [*P[:-1], "a\0b"]),
]
