"""Reading and writing tensors: safetensors first, never a pickle without the user's explicit word."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from unbackdoor.disk import atomic
from unbackdoor.errors import InputError


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


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """A state dict from safetensors, or from a torch file with `weights_only=True`; nothing is unpickled.

    Wrappers (`state_dict`, `model`) and a common `module.` prefix are taken off.

    Raises:
        InputError: missing or corrupt file, a file that needs unpickling, or no tensors inside.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint file")
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0][:120]
        raise InputError(
            f"{path}: cannot be loaded as plain tensors ({reason}); "
            "convert it to safetensors in an environment you trust"
        ) from None
    for wrapper in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping) or not any(isinstance(v, Tensor) for v in loaded.values()):
        raise InputError(f"{path}: holds no state dict of tensors")
    state = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)}
    if all(k.startswith("module.") for k in state):
        state = {k[len("module.") :]: v for k, v in state.items()}
    return state


def state_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of a state dict, in name order."""
    digest = hashlib.sha256()
    for name in sorted(state):
        t = state[name].detach().to("cpu").contiguous()
        digest.update(f"{name}|{t.dtype}|{tuple(t.shape)}|".encode())
        digest.update(t.reshape(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b"")
    return digest.hexdigest()
