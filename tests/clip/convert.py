"""Test-only: the same weights as an OpenCLIP ViT and as a Hugging Face CLIPModel."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from tests.conftest import vit_config, write_open_clip

_BLOCK = {
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "attn.out_proj.": "self_attn.out_proj.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}
_PLAIN = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "logit_scale": "logit_scale",
}
_NORMS = {
    "visual.ln_pre.": "vision_model.pre_layrnorm.",
    "visual.ln_post.": "vision_model.post_layernorm.",
    "ln_final.": "text_model.final_layer_norm.",
}
_PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
_TOWERS = {"visual.transformer.resblocks.": "vision_model.", "transformer.resblocks.": "text_model."}


def to_hf(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename (and split or transpose) OpenCLIP ViT tensors into CLIPModel's."""
    out: dict[str, Tensor] = {}
    for name, t in state.items():
        if name in _PLAIN:
            out[_PLAIN[name]] = t
        elif name in _PROJECTIONS:
            out[_PROJECTIONS[name]] = t.T
        elif norm := next((n for n in _NORMS if name.startswith(n)), None):
            out[_NORMS[norm] + name.removeprefix(norm)] = t
        else:
            tower = next(n for n in _TOWERS if name.startswith(n))
            number, _, rest = name.removeprefix(tower).partition(".")
            base = f"{_TOWERS[tower]}encoder.layers.{number}."
            if rest.startswith("attn.in_proj_"):
                kind = rest.removeprefix("attn.in_proj_")
                for part, piece in zip("qkv", t.chunk(3), strict=True):
                    out[f"{base}self_attn.{part}_proj.{kind}"] = piece
            else:
                block = next(b for b in _BLOCK if rest.startswith(b))
                out[base + _BLOCK[block] + rest.removeprefix(block)] = t
    return {n: t.contiguous() for n, t in out.items()}


def to_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_hf`: CLIPModel's tensors (or its image tower's) under OpenCLIP's names."""
    plain = {theirs: ours for ours, theirs in _PLAIN.items()}
    projections = {theirs: ours for ours, theirs in _PROJECTIONS.items()}
    prefixes = {theirs: ours for ours, theirs in _NORMS.items()}
    towers = {f"{theirs}encoder.layers.": ours for ours, theirs in _TOWERS.items()}
    blocks = {theirs: ours for ours, theirs in _BLOCK.items()}
    out: dict[str, Tensor] = {}
    for name, t in state.items():
        if name in plain:
            out[plain[name]] = t
        elif name in projections:
            out[projections[name]] = t.T
        elif norm := next((n for n in prefixes if name.startswith(n)), None):
            out[prefixes[norm] + name.removeprefix(norm)] = t
        else:
            tower = next(n for n in towers if name.startswith(n))
            number, _, rest = name.removeprefix(tower).partition(".")
            base = f"{towers[tower]}{number}."
            if rest.startswith("self_attn.") and "_proj." in rest and "out_proj" not in rest:
                if rest.startswith("self_attn.q_proj."):
                    kind = rest.rpartition(".")[2]
                    parts = [state[f"{tower}{number}.self_attn.{p}_proj.{kind}"] for p in "qkv"]
                    out[f"{base}attn.in_proj_{kind}"] = torch.cat(parts)
            else:
                block = next(b for b in blocks if rest.startswith(b))
                out[base + blocks[block] + rest.removeprefix(block)] = t
    return {n: t.contiguous() for n, t in out.items()}


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
