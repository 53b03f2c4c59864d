"""Low-rank adapters in PEFT's file format: reading one as differences of weights, and writing a vector as one.

ΔW = scale · B·A for every module named (LoRA, Hu et al. 2021, arXiv 2106.09685); scale is lora_alpha/r,
or lora_alpha/√r where the adapter says use_rslora (Kalajdzievski 2023, arXiv 2312.03732).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unbackdoor.disk import atomic_folder, write_text
from unbackdoor.errors import InputError
from unbackdoor.weights.files import read_checkpoint, write_tensors
from unbackdoor.weights.vector import Vector

CONFIG, WEIGHTS, _OLD = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"^(.*)\.lora_([AB])(?:\.default)?\.weight$")


def read_config(folder: Path) -> dict[str, Any]:
    """An adapter's configuration.

    Raises:
        InputError: not there, not readable, or of a kind that is more than ΔW = scale · B·A.
    """
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{folder / CONFIG}: no adapter's configuration ({error})") from None
    if not isinstance(found, dict) or str(found.get("peft_type")).upper() != "LORA":
        raise InputError(f"{folder / CONFIG}: peft_type is not LORA; merge the adapter with its own library first")
    for key in ("use_dora", "use_qalora", "use_bdlora", "alora_invocation_tokens", "modules_to_save", "lora_bias"):
        if found.get(key):
            raise InputError(f"{folder / CONFIG}: {key} is set; merge the adapter with its own library first")
    return found


def read_adapter(folder: Path) -> Vector:
    """ΔW by the name of the weight it is added to, in float32.

    Raises:
        InputError: as `read_config`; tensors other than matched pairs of factors.
    """
    config = read_config(folder)
    path = folder / WEIGHTS if (folder / WEIGHTS).is_file() else folder / _OLD
    factors: dict[str, dict[str, Tensor]] = {}
    for name, tensor in read_checkpoint(path).items():
        found = _FACTOR.match(name)
        if found is None:
            raise InputError(f"{path}: {name} is no factor of a LoRA; merge the adapter with its own library first")
        factors.setdefault(found[1].removeprefix(_PREFIX), {})[found[2]] = tensor.float()
    out: Vector = {}
    for module, pair in factors.items():
        if set(pair) != {"A", "B"}:
            raise InputError(f"{path}: {module} has one of two factors; fetch the adapter again")
        out[f"{module}.weight"] = _product(path, module, pair["A"], pair["B"], config)
    return out


def _product(path: Path, module: str, a: Tensor, b: Tensor, config: Mapping[str, Any]) -> Tensor:
    try:
        rank = float(_pattern(config.get("rank_pattern"), module, config.get("r")))
        alpha = float(_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha")))
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    except (TypeError, ValueError, ZeroDivisionError, re.error):
        raise InputError(f"{path.parent / CONFIG}: r and lora_alpha are not two usable numbers") from None
    if a.ndim < 2 or b.ndim < 2 or a.shape[0] != b.shape[1]:
        raise InputError(f"{path}: {module} has factors {tuple(a.shape)} and {tuple(b.shape)}, which do not fit")
    delta = scale * (b.flatten(1) @ a.flatten(1))
    if a.ndim > 2:
        return delta.reshape(b.shape[0], *a.shape[1:])
    return delta.T.contiguous() if config.get("fan_in_fan_out") else delta


def _pattern(patterns: Any, module: str, default: Any) -> Any:
    """PEFT's rule: the first pattern that matches the module's name from a dot, or from its start, to its end."""
    for pattern, value in patterns.items() if isinstance(patterns, Mapping) else ():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def factorised(vector: Mapping[str, Tensor], rank: int) -> tuple[dict[str, tuple[Tensor, Tensor]], float]:
    """Every matrix at its best approximation of `rank` (truncated SVD), and the share of ‖vector‖² that is kept.

    Args:
        vector: weights of linear modules are `NAME.weight`, of two dimensions and no embedding's, those of convolutions
            have four; all else is left out.

    Returns:
        module → (A (r, in), B (out, r)), with the singular values shared evenly, of a convolution (r, in, h, w) and
        (out, r, 1, 1); the share in [0, 1].
    """
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    whole, kept = 0.0, 0.0
    for name, t in vector.items():
        whole += float(t.double().pow(2).sum())
        embedding = t.ndim == 2 and name.endswith("embedding.weight")
        if t.ndim not in (2, 4) or not name.endswith(".weight") or embedding:
            continue
        u, s, v = torch.linalg.svd(t.float().flatten(1), full_matrices=False)
        root = s[:rank].sqrt()
        a, b = root[:, None] * v[:rank], u[:, :rank] * root
        if t.ndim == 4:
            a, b = a.reshape(-1, *t.shape[1:]), b[:, :, None, None]
        factors[name.removesuffix(".weight")] = (a.contiguous(), b.contiguous())
        kept += float(s[:rank].double().pow(2).sum())
    return factors, kept / whole if whole else 0.0


def write_adapter(folder: Path, factors: Mapping[str, tuple[Tensor, Tensor]], base: str | None = None) -> None:
    """Write factors as an adapter of scale 1 that PEFT opens.

    Args:
        base: what to name as the base model, for people and for `from_pretrained`.

    Raises:
        InputError: the folder is there and not empty.
    """
    rank = max(a.shape[0] for a, _ in factors.values())
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": sorted(factors),
        "rank_pattern": {name: a.shape[0] for name, (a, _) in sorted(factors.items()) if a.shape[0] != rank},
        "alpha_pattern": {name: a.shape[0] for name, (a, _) in sorted(factors.items()) if a.shape[0] != rank},
    }
    tensors: dict[str, Tensor] = {}
    for module, (a, b) in factors.items():
        tensors |= {f"{_PREFIX}{module}.lora_A.weight": a, f"{_PREFIX}{module}.lora_B.weight": b}

    def fill(temporary: Path) -> None:
        write_tensors(temporary / WEIGHTS, tensors, {"format": "pt"})
        write_text(temporary / CONFIG, json.dumps(config, indent=2) + "\n")

    atomic_folder(folder, fill)
