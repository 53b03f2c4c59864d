"""Test-only: the same weights as an OpenCLIP ViT and as a Hugging Face CLIPModel."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from tests.conftest import vit_config, write_open_clip
from unbackdoor.clip.convert import to_hf, to_open_clip


def small_open_clip(folder: Path, *, quick_gelu: bool = True) -> Path:
    """A tiny native ViT CLIP (32 px, patch 8, width 64, 2 layers) as a `local-dir:` folder with seeded weights."""
    config = vit_config()
    config["model_cfg"]["quick_gelu"] = quick_gelu
    return write_open_clip(folder, config)


def open_clip_to_hf(source: Path, folder: Path) -> Path:
    """Write the model of an OpenCLIP `local-dir:` folder as a Hugging Face folder."""
    from safetensors.torch import load_file, save_file
    from transformers import CLIPConfig

    whole = json.loads((source / "open_clip_config.json").read_text())
    config, vision, text = whole["model_cfg"], whole["model_cfg"]["vision_cfg"], whole["model_cfg"]["text_cfg"]
    act = "quick_gelu" if config.get("quick_gelu") else "gelu"
    hf = CLIPConfig(
        projection_dim=config["embed_dim"],
        vision_config={
            "hidden_size": vision["width"],
            "intermediate_size": 4 * vision["width"],
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // vision["head_width"],
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "hidden_act": act,
            "projection_dim": config["embed_dim"],
        },
        text_config={
            "hidden_size": text["width"],
            "intermediate_size": 4 * text["width"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "max_position_embeddings": text["context_length"],
            "vocab_size": text["vocab_size"],
            "hidden_act": act,
            "eos_token_id": 49407,
            "bos_token_id": 49406,
            "projection_dim": config["embed_dim"],
        },
    )
    folder.mkdir(parents=True, exist_ok=True)
    hf.save_pretrained(folder)
    pre = whole["preprocess_cfg"]
    side = vision["image_size"]
    settings = {
        "image_mean": pre["mean"],
        "image_std": pre["std"],
        "resample": 3,
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
        "do_center_crop": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    state = load_file(source / "open_clip_model.safetensors")
    save_file(to_hf({n: t for n, t in state.items() if n != "attn_mask"}), folder / "model.safetensors")
    return folder


def max_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest absolute difference over all tensors; the names must agree."""
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).abs().max()) for n in a)


__all__ = ["max_difference", "open_clip_to_hf", "small_open_clip", "to_hf", "to_open_clip"]
