"""Reading and writing tensors: safetensors first, never a pickle without the user's explicit word."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from unbackdoor.base.disk import atomic
from unbackdoor.base.errors import InputError, first_line
from unbackdoor.base.notices import warn
from unbackdoor.weights.names import choose_state, unwrapped
from unbackdoor.weights.stored import read_header
from unbackdoor.weights.torchfile import PLAIN_TYPES, NeedsCodeError, Odd, Placed, is_program, names_in, open_torch


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Atomically write tensors as safetensors. Tensors that share memory are stored once each, as copies.

    Raises:
        InputError: a name or a type that the format does not hold, sparse and other tensors that are no plain numbers,
            or a file that cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    for name, t in tensors.items():
        _check_name(path, name)
        _check_plain(path, name, t)
    ready = {name: t.detach().to("cpu", copy=False).contiguous() for name, t in tensors.items()}
    addresses: set[int] = set()
    for name, t in ready.items():
        if t.untyped_storage().data_ptr() in addresses and t.numel():
            ready[name] = t.clone()
        addresses.add(ready[name].untyped_storage().data_ptr())

    def write(temporary: Path) -> None:
        try:
            save_file(ready, str(temporary), metadata=dict(metadata or {"format": "pt"}))
        except SafetensorError as error:  # the system's refusals, a full disk among them, come as this
            raise InputError(f"{path}: cannot be written ({first_line(error)})") from None
        read_header(temporary)

    atomic(path, write)


def _check_name(path: Path, name: str) -> None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{path}: tensor {name!r} has a name that is no text; rename it") from None
    if name == "__metadata__":
        raise InputError(f"{path}: a tensor is named __metadata__, which safetensors keeps for itself; rename it")


def _check_plain(path: Path, name: str, tensor: Tensor) -> None:
    kind = (
        "nested" if tensor.is_nested
        else "sparse" if tensor.layout != torch.strided
        else "without numbers (meta)" if tensor.is_meta
        else "quantised" if tensor.is_quantized
        else f"of type {tensor.dtype}" if tensor.dtype not in PLAIN_TYPES
        else "" if type(tensor) is Tensor or isinstance(tensor, torch.nn.Parameter)
        else f"of the class {type(tensor).__name__}"
    )  # fmt: skip
    if kind:
        raise InputError(f"{path}: tensor {name} is {kind}; save it as a plain one")


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        InputError: no such file, or not a readable safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"{path}: no such file; give the path of an existing safetensors file")
    read_header(path)  # which bounds what the library will ask for
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({first_line(error)}); fetch it again") from None


def read_checkpoint(path: Path, *, unpickle: bool = False) -> dict[str, Tensor]:
    """A state dict from safetensors, or from a file of `torch.save`; nothing is unpickled.

    What wrappers put around it or before its names is taken off, as far as no model calls itself so
    (`weights.names.unwrapped`); `weights.names.fitted` does the rest where the model is known.

    Args:
        unpickle: run whatever code the file asks for. Only for a file whose maker the user trusts.

    Raises:
        InputError: missing or corrupt file, a file that needs unpickling (and what it would import), no tensors or
            several models, tensors that are no plain numbers or larger than the file.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint file")
    if path.suffix == ".safetensors":
        return unwrapped(read_tensors(path)[0], str(path))
    try:
        file = open_torch(path)
    except NeedsCodeError as error:
        if not unpickle:
            raise _refusal(path, error) from None
        state = _state(path, _unpickled(path))
        for name, t in state.items():
            _check_plain(path, name, t)
        return state
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or first_line(error)}") from None
    return file.tensors(_state(path, file.content))


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what `read_checkpoint` gives; no tensor is read.

    Raises:
        InputError: as `read_checkpoint`.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint file")
    if path.suffix == ".safetensors":
        return unwrapped({entry.name: entry.shape for entry in read_header(path).entries}, str(path))
    try:
        file = open_torch(path)
    except NeedsCodeError as error:
        raise _refusal(path, error) from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or first_line(error)}") from None
    return {name: t.shape for name, t in file.checked(_state(path, file.content)).items()}


def _state(path: Path, content: Any) -> dict[str, Any]:
    chosen = choose_state(content, lambda value: isinstance(value, Tensor | Placed | Odd), str(path))
    if chosen.averaged:
        others = ".".join(chosen.where) or "the tensors beside it"
        warn(
            f"{path}: holds averaged weights ({', '.join(chosen.averaged)}) beside {others}, which are taken; for the "
            "others save them in a file of their own"
        )
    return unwrapped(chosen.state, str(path))


def _refusal(path: Path, error: NeedsCodeError) -> InputError:
    return InputError(
        f"{path}: cannot be loaded as plain tensors ({first_line(error)}); {_imports(path)}; where you trust its "
        f"maker, run `unbackdoor weights convert --unpickle {path.name} --out NAME.safetensors`"
    )


def _unpickled(path: Path) -> Any:
    """What the file's own code makes of it, modules as their state dicts."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a stranger's file is no news to tell of
            if is_program(path):
                return torch.jit.load(str(path), map_location="cpu").state_dict()
            return _as_mappings(torch.load(path, map_location="cpu", weights_only=False))
    except InputError:
        raise
    except Exception as error:  # the file's own code can fail in any way
        raise InputError(f"{path}: cannot be unpickled ({first_line(error)})") from None


def _as_mappings(value: Any, depth: int = 4) -> Any:
    if isinstance(value, torch.nn.Module):
        return value.state_dict()
    if isinstance(value, Mapping) and depth:
        return {key: _as_mappings(inner, depth - 1) for key, inner in value.items()}
    return value


def _imports(path: Path) -> str:
    """What a pickle would import if it were run, by name and danger; nothing of it is run. Part of a sentence."""
    names = names_in(path)
    if not names:
        return "no pickle that could be read is in it"
    risky = risky_names(names)
    if not risky:
        return f"it imports {len(names)} things, all of them known to be harmless"
    named = ", ".join(f"{name[:80]} ({level})" for name, level in list(risky.items())[:3])
    more = f" and {len(risky) - 3} more" if len(risky) > 3 else ""
    return f"it is a pickle that would import {named}{more}"


Risk = Literal["dangerous", "unknown"]


def risky_names(names: Sequence[str]) -> dict[str, Risk]:
    """Of what a pickle would import those names that are not known to be harmless, the dangerous ones first.

    Args:
        names: such as `torchfile.names_in` gives.
    """
    import logging

    from picklescan.scanner import SafetyLevel, scan_pickle_bytes

    # The scanner knows which names are dangerous; given them one by one, it has no hostile pickle to follow.
    plain = [name for name in names if "." in name and "\n" not in name]
    imports = "".join("c{0}\n{2}\n".format(*name.rpartition(".")) for name in plain)
    logging.disable(logging.CRITICAL)  # the scanner's own account of every finding
    try:
        scan = scan_pickle_bytes(io.BytesIO(imports.encode("utf-8", "replace") + b"."), "names")
    except Exception:  # names that it cannot read: none of them is known to be harmless
        return dict.fromkeys(names, "unknown")
    finally:
        logging.disable(logging.NOTSET)
    risky: dict[str, Risk] = {
        f"{g.module}.{g.name}": "dangerous" if g.safety == SafetyLevel.Dangerous else "unknown"
        for g in scan.globals
        if g.safety != SafetyLevel.Innocuous
    }
    risky |= dict.fromkeys(set(names) - set(plain), "unknown")
    return dict(sorted(risky.items(), key=lambda pair: (pair[1] != "dangerous", pair[0])))


def state_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of a state dict, in name order."""
    digest = hashlib.sha256()
    for name in sorted(state):
        t = state[name].detach().to("cpu").contiguous()
        digest.update(f"{name}|{t.dtype}|{tuple(t.shape)}|".encode())
        digest.update(t.reshape(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b"")
    return digest.hexdigest()
