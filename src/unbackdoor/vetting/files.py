"""What a model's files are, before any is opened as a model: format, hash, and whether they would run code.

Nothing is imported, unpickled or run. A pickle is read as data (`weights.pickles`), a configuration as plain JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from unbackdoor.base.disk import digest
from unbackdoor.base.errors import InputError
from unbackdoor.base.printable import terminal
from unbackdoor.base.untrusted import is_there, read_json
from unbackdoor.clip import published
from unbackdoor.clip.load import EMBEDDED
from unbackdoor.vetting.result import FileFacts, Import
from unbackdoor.weights.files import risky_names
from unbackdoor.weights.torchfile import NeedsCodeError, is_program, names_in, open_torch

# What weights are stored in, by any library; and what pickles may hide in.
WEIGHTS = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".npz", ".npy", ".h5",
    ".onnx", ".msgpack", ".gguf",
)  # fmt: skip
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", "")
CONFIGS = (
    "config.json", "open_clip_config.json", "preprocessor_config.json", "processor_config.json",
    "tokenizer_config.json", "generation_config.json", "adapter_config.json",
)  # fmt: skip
ADAPTER = "adapter_config.json"
# Keys by which a configuration has a library import the code that lies beside it.
_CODE_KEYS = ("auto_map", "trust_remote_code", "custom_pipelines")
_MOST_FILES, _MOST_IMPORTS = 1000, 100
Role = Literal["weights", "adapter", "base", "configuration", "code"]


def files_of(reference: str, checkpoint: Path | None = None) -> tuple[FileFacts, ...]:
    """The files of a model that say what it computes, or that would run code.

    These are its weights, in whatever format, pickles beside them, configurations that name code, and Python files.
    A model that has none on this machine, such as `random:ARCHITECTURE`, has none here.

    Args:
        reference: as for `clip.load`; one of the hub is fetched.
        checkpoint: weights for an architecture's name.

    Raises:
        InputError: it cannot be fetched, or there are too many files.
    """
    files = tuple(_facts(path, role) for path, role in _places(reference, checkpoint))
    return tuple(f for f in files if f.role != "configuration" or f.unsafe is not None)


def is_model(folder: Path) -> bool:
    """Whether a folder holds a model, or an output folder's `model` does."""
    return any((place / name).is_file() for place in (folder / "model", folder) for name in CONFIGS)


def _places(reference: str, checkpoint: Path | None) -> Iterator[tuple[Path, Role]]:
    """Files and what they are for, each once."""
    if checkpoint is not None:
        yield checkpoint, "weights"
    elif reference == "embedded":
        yield from _of_folder(EMBEDDED, "weights")
    elif reference.startswith("adapter:"):
        place, _, base = reference.removeprefix("adapter:").partition("@")
        yield from _of_folder(Path(place), "adapter")
        if base:
            yield from ((path, "base" if role == "weights" else role) for path, role in _places(base, None))
    elif reference.startswith("hf-hub:"):
        from unbackdoor.clip.hub import fetch_model

        yield from _of_folder(fetch_model(reference.removeprefix("hf-hub:"), reference), "weights")
    else:
        path = Path(reference.removeprefix("local-dir:"))
        if published.is_folder(path):
            yield from _of_folder(path, "weights")
        elif is_there(path) and path.is_file():
            yield path, "weights"
        elif (named := published.parse(reference)) is not None and named[1]:
            yield published.fetch(named[0], published.check_tag(*named)), "weights"


def _of_folder(folder: Path, role: Role) -> Iterator[tuple[Path, Role]]:
    """The files of a folder and, where it is a verb's output, of the model in it."""
    number = 0
    for place in (folder, folder / "model"):
        for path in sorted(place.iterdir()) if published.is_folder(place) else ():
            number += 1
            if number > _MOST_FILES:
                raise InputError(
                    f"{folder}: holds more than {_MOST_FILES} files; name a folder that holds a model alone"
                )
            if not path.is_file():
                continue
            if path.suffix in WEIGHTS:
                yield path, role
            elif path.name in CONFIGS:
                yield path, "configuration"
            elif path.suffix == ".py":
                yield path, "code"


def _facts(path: Path, role: Role) -> FileFacts:
    form, imports, unsafe = _look(path, role)
    try:
        size, sha = path.stat().st_size, digest(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or 'cannot be read'}") from None
    return FileFacts(terminal(str(path)), role, form, size, sha, imports, unsafe)


def _look(path: Path, role: Role) -> tuple[str, tuple[Import, ...], str | None]:
    """Format, what it would import, and why opening it would run code."""
    if role == "configuration":
        return "json", (), _names_code(path)
    if role == "code":
        return "python", (), None  # nothing runs it, unless a configuration names it
    if path.suffix not in _PICKLED:
        return path.suffix.removeprefix("."), (), None
    try:
        if is_program(path):
            return "torchscript", (), "is a TorchScript archive, which is a program"
        names = names_in(path)
    except (InputError, OSError):  # no archive and no pickle that could be read
        return path.suffix.removeprefix("."), (), None
    imports = tuple(
        Import(terminal(name[:200]), risk) for name, risk in list(risky_names(names).items())[:_MOST_IMPORTS]
    )
    try:
        open_torch(path)
    except (NeedsCodeError, InputError, OSError):
        form = "pickle" if names else path.suffix.removeprefix(".")
    else:
        # Our own reader knows every name in it, and none of them is run.
        return "torch", (), None
    if not imports:
        return form, (), None
    few = ", ".join(f"{one.name[:80]} ({one.risk})" for one in imports[:3])
    more = f" and {len(imports) - 3} more" if len(imports) > 3 else ""
    return form, imports, f"is a pickle that would import {few}{more}"


def _names_code(path: Path) -> str | None:
    try:
        content = read_json(path)
    except InputError:  # whoever opens the model says what is wrong with it
        return None
    named = sorted(set(_code_keys(content)))
    return f"names code to be run ({', '.join(named)})" if named else None


def _code_keys(value: Any) -> Iterator[str]:
    """Keys that name code, at any depth that `read_json` lets pass."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in _CODE_KEYS and inner:
                yield key
            yield from _code_keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _code_keys(inner)
