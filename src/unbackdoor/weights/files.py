"""Reading and writing tensors: safetensors first, never a pickle without the user's explicit word."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unbackdoor.disk import atomic
from unbackdoor.errors import InputError, first_line


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Atomically write tensors as safetensors. Tensors that share memory are stored once each, as copies."""
    from safetensors.torch import save_file

    ready = {name: t.detach().to("cpu", copy=False).contiguous() for name, t in tensors.items()}
    seen: set[int] = set()
    for name, t in ready.items():
        if t.data_ptr() in seen and t.numel():
            ready[name] = t.clone()
        seen.add(ready[name].data_ptr())
    atomic(path, lambda temporary: save_file(ready, str(temporary), metadata=dict(metadata or {"format": "pt"})))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        InputError: no such file, or not a readable safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"{path}: no such file; give the path of an existing safetensors file")
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}); fetch it again") from None


def read_checkpoint(path: Path, *, unpickle: bool = False) -> dict[str, Tensor]:
    """A state dict from safetensors, or from a torch file with `weights_only=True`; nothing is unpickled.

    Wrappers (`state_dict`, `model`) and a common `module.` prefix are taken off.

    Args:
        unpickle: run whatever code the file asks for. Only for a file whose maker the user trusts.

    Raises:
        InputError: missing or corrupt file, a file that needs unpickling (and what it would import), or no tensors.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint file")
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    _check_zip(path)
    try:
        loaded = _load(path, weights_only=True)
    except Exception as error:
        if not unpickle:
            raise InputError(
                f"{path}: cannot be loaded as plain tensors ({first_line(error)}); {asked_for(path)}; where you "
                f"trust its maker, run "
                f"`unbackdoor weights convert --unpickle {path.name} --out NAME.safetensors`"
            ) from None
        loaded = _unpickled(path)
    for wrapper in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping | torch.nn.Module):
            loaded = loaded[wrapper]
    if isinstance(loaded, torch.nn.Module):
        loaded = loaded.state_dict()
    if not isinstance(loaded, Mapping) or not any(isinstance(v, Tensor) for v in loaded.values()):
        raise InputError(f"{path}: holds no state dict of tensors")
    state = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)}
    if all(k.startswith("module.") for k in state):
        state = {k[len("module.") :]: v for k, v in state.items()}
    return state


def _check_zip(path: Path) -> None:
    """torch stores members as they are, side by side; a file that stands for many times its size is no model."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as file:
            members = file.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # an older form, or damage, which torch tells of
    if any(m.compress_type != zipfile.ZIP_STORED for m in members):
        raise InputError(f"{path}: holds compressed members, which torch never writes; save it again with torch.save")
    if sum(m.file_size for m in members) > path.stat().st_size:
        raise InputError(f"{path}: its members claim more bytes than it has; fetch it again")


def _load(path: Path, *, weights_only: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a stranger's file is no news to tell of
        return torch.load(path, map_location="cpu", weights_only=weights_only)


def _unpickled(path: Path) -> Any:
    try:
        return _load(path, weights_only=False)
    except Exception as error:  # the file's own code can fail in any way
        raise InputError(f"{path}: cannot be unpickled ({first_line(error)})") from None


def asked_for(path: Path) -> str:
    """What a pickle would import if it were run, by a scan of its opcodes; nothing of it is run. Part of a sentence."""
    import logging

    from picklescan.scanner import SafetyLevel, scan_file_path

    logging.disable(logging.CRITICAL)  # the scanner's own account of every finding
    try:
        found = scan_file_path(str(path))
    except Exception:
        return "it is no pickle that could be scanned"
    finally:
        logging.disable(logging.NOTSET)
    if not found.globals:
        return (
            "no pickle that could be read is in it"
            if found.scan_err or not found.scanned_files
            else "it imports nothing"
        )
    level = {True: "dangerous", False: "unknown"}
    risky = {
        f"{g.module}.{g.name}": level[g.safety == SafetyLevel.Dangerous]
        for g in found.globals
        if g.safety != SafetyLevel.Innocuous
    }
    if not risky:
        return f"it imports {len(found.globals)} things, all of them known to be harmless"
    worst = sorted(risky, key=lambda name: (risky[name] != "dangerous", name))
    named = ", ".join(f"{_printable(name)} ({risky[name]})" for name in worst[:3])
    more = f" and {len(worst) - 3} more" if len(worst) > 3 else ""
    return f"it is a pickle that would import {named}{more}"


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name)[:80]


def state_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of a state dict, in name order."""
    digest = hashlib.sha256()
    for name in sorted(state):
        t = state[name].detach().to("cpu").contiguous()
        digest.update(f"{name}|{t.dtype}|{tuple(t.shape)}|".encode())
        digest.update(t.reshape(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b"")
    return digest.hexdigest()
