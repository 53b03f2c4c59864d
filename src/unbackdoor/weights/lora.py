"""Low-rank adapters in PEFT's file format, made of a vector. How such files are read: `weights.adapters`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from unbackdoor.base.disk import atomic_folder, write_text
from unbackdoor.weights.adapters import CONFIG, PREFIX, WEIGHTS
from unbackdoor.weights.files import write_tensors


def factorized(vector: Mapping[str, Tensor], rank: int) -> tuple[dict[str, tuple[Tensor, Tensor]], float]:
    """Every matrix at its best approximation of `rank` (truncated SVD), and the share of ‖vector‖² that is kept.

    Args:
        vector: weights of linear modules are `NAME.weight`, of two dimensions and no embedding's, those of convolutions
            have four; all else is left out.

    Returns:
        module → (A (r, in), B (out, r)), with the singular values shared evenly, of a convolution (r, in, h, w) and
        (out, r, 1, 1); the share in [0, 1].
    """
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    whole, part = 0.0, 0.0
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
        part += float(s[:rank].double().pow(2).sum())
    return factors, part / whole if whole else 0.0


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
        tensors |= {f"{PREFIX}{module}.lora_A.weight": a, f"{PREFIX}{module}.lora_B.weight": b}

    def fill(temporary: Path) -> None:
        write_tensors(temporary / WEIGHTS, tensors, {"format": "pt"})
        write_text(temporary / CONFIG, json.dumps(config, indent=2) + "\n")

    atomic_folder(folder, fill)
