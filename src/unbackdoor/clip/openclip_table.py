"""What `open_clip_config.json` may say: the keys of OpenCLIP 3 and the values that build a model or a preprocessing.

Left out on purpose, so refused: `bpe_path` and other paths, `trust_remote_code`, `additional_special_tokens` (they
become a regular expression), `reduction_mask` (drops words at random, or fetches a word list), `cache_dir`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unbackdoor.base.errors import InputError
from unbackdoor.base.untrusted import read_json
from unbackdoor.clip.allowed import (
    Rule,
    Sizes,
    anything,
    check_keys,
    dimension,
    either,
    flag,
    layers,
    maybe,
    real,
    several,
    side,
    table,
    text,
    whole,
    words,
)  # fmt: skip

Json = dict[str, Any]

_HUB_NAME = text(r"[\w.-]{1,96}(/[\w.-]{1,96})?", "a name of the hub, such as timm/ViT-B-16-SigLIP")
_TIMM_NAME = text(r"[a-z0-9_]{1,80}(\.[a-z0-9_]{1,80})?", "the name of a timm architecture")
_SIDE = side()
_COLOR = several(real(-1000, 1000), 3, 3)
_BLOCK: dict[str, Rule] = {
    "mlp_ratio": real(0.01, 64),
    "ls_init_value": maybe(real(-100, 100)),
    "output_tokens": flag(),
    "final_ln_after_pool": flag(),
    "act_kwargs": maybe(table({"approximate": words("none", "tanh")})),
    "norm_kwargs": maybe(table({"eps": real(0, 1), "elementwise_affine": flag(), "bias": flag()})),
    "block_type": maybe(words("default", "custom")),
    "qk_norm": flag(),
    "scaled_cosine_attn": flag(),
    "scale_heads": flag(),
    "scale_attn_inner": flag(),
    "scale_attn": flag(),
    "scale_fc": flag(),
}
_VISION: dict[str, Rule] = {
    **_BLOCK,
    "layers": either(layers(), several(layers(), 4, 4)),
    "width": dimension(1 << 20),
    "head_width": whole(1, 1 << 20),
    "patch_size": maybe(_SIDE),
    "image_size": _SIDE,
    "patch_dropout": real(0, 0.99),
    "attentional_pool": either(flag(), words("parallel", "cascade")),
    "attn_pooler_queries": whole(1, 1 << 16),
    "attn_pooler_heads": whole(1, 1 << 12),
    "no_ln_pre": flag(),
    "pos_embed_type": words("learnable", "sin_cos_2d"),
    "pool_type": words("tok", "avg", "none"),
    "timm_model_name": maybe(_TIMM_NAME),
    "timm_model_pretrained": flag(),
    "timm_pool": maybe(words("", "avg", "max", "avgmax", "catavgmax", "map", "token", "abs_attn", "rot_attn")),
    "timm_proj": maybe(words("", "linear", "mlp", "none")),
    "timm_proj_bias": flag(),
    "timm_drop": real(0, 1),
    "timm_drop_path": maybe(real(0, 1)),
}
_TEXT: dict[str, Rule] = {
    **_BLOCK,
    "context_length": dimension(1 << 10),
    "vocab_size": dimension(),
    "hf_tokenizer_name": maybe(either(words(""), _HUB_NAME)),
    "tokenizer_mode": maybe(words("", "clips")),
    "tokenizer_kwargs": maybe(
        table({
            "clean": words("canonicalize", "lower", "whitespace"),
            "strip_sep_token": flag(),
            "language": maybe(text("[A-Za-z]{2,8}(_[A-Za-z]{2,8})?", "the code of a language, such as eng_Latn")),
        })
    ),
    "width": dimension(1 << 20),
    "heads": whole(1, 1 << 12),
    "layers": layers(),
    "embed_cls": flag(),
    "pad_id": whole(0, 1 << 24),
    "eos_id": whole(0, 1 << 24),
    "no_causal_mask": flag(),
    "pool_type": words("first", "last", "argmax", "eos", "none"),
    "proj_bias": flag(),
    "proj_type": words("linear", "none"),
    "hf_model_name": maybe(_HUB_NAME),
    "hf_model_pretrained": flag(),
    "hf_proj_type": maybe(words("linear", "mlp")),
    "hf_pooler_type": maybe(words("mean_pooler", "max_pooler", "cls_pooler", "cls_last_hidden_state_pooler")),
}  # fmt: skip
_MULTIMODAL: dict[str, Rule] = {
    **_TEXT,
    "vocab_size": whole(1, 1 << 24),  # of no use to this tower
    "dim_head": whole(1, 1 << 16),
    "n_queries": whole(1, 1 << 16),
    "attn_pooler_heads": whole(1, 1 << 12),
}
MODEL: dict[str, Rule] = {
    "embed_dim": dimension(1 << 20),
    "vision_cfg": table(_VISION),
    "text_cfg": table(_TEXT),
    "multimodal_cfg": table(_MULTIMODAL),
    "quick_gelu": flag(),
    "custom_text": flag(),
    "init_logit_scale": real(-100, 100),
    "init_logit_bias": maybe(real(-1000, 1000)),
    "nonscalar_logit_scale": flag(),
    "output_dict": flag(),
    "pad_id": whole(0, 1 << 24),
}
PREPROCESS: dict[str, Rule] = {
    "size": maybe(_SIDE),
    "mode": words("RGB"),
    "mean": maybe(_COLOR),
    "std": maybe(several(real(1e-6, 1000), 3, 3)),
    "interpolation": maybe(words("bicubic", "bilinear", "random")),
    "resize_mode": maybe(words("shortest", "longest", "squash")),
    "fill_color": either(whole(0, 255), several(whole(0, 255), 3, 3)),
}
_CONFIG: dict[str, Rule] = {
    "model_cfg": table(MODEL),
    "preprocess_cfg": maybe(table(PREPROCESS)),
    # Notes of other tools, read by none.
    "architecture": anything(),
    "license": anything(),
    "library_name": anything(),
}


def read_config(path: Path) -> Json:
    """An `open_clip_config.json`, checked key by key.

    Raises:
        InputError: not readable, no model in it, or something that is not allowed.
    """
    config = read_json(path)
    check_config(config, str(path))
    return config


def check_config(config: Json, what: str, sizes: Sizes | None = None) -> None:
    """Whether a configuration says what it may, and asks for no more than the weights hold.

    Args:
        config: with `model_cfg`, and `preprocess_cfg` where there is one.

    Raises:
        InputError: it does not; the line names the key.
    """
    check_keys(config, _CONFIG, what, sizes)
    model: Json = config.get("model_cfg") or {}
    for part in ("embed_dim", "vision_cfg", "text_cfg"):
        if part not in model:
            raise InputError(f"{what}: not an OpenCLIP configuration: model_cfg.{part} is missing")
    vision, captions = model["vision_cfg"], "multimodal_cfg" in model
    name = vision.get("timm_model_name")
    if name:
        _check_timm(str(name), what)
    elif sizes is not None:
        _check_grid(vision, sizes, what)
    for part in ("vision_cfg", "text_cfg"):
        # Towers that also give every token's embedding are CoCa's; in other models no one takes them.
        if bool(model[part].get("output_tokens")) != captions:
            value = "true in a model with multimodal_cfg" if captions else "false in a model without multimodal_cfg"
            raise InputError(f"{what}: model_cfg.{part}.output_tokens must be {value}")


def _check_timm(name: str, what: str) -> None:
    import timm

    if not timm.is_model(name.partition(".")[0]):
        raise InputError(f"{what}: {name!r} is no architecture of timm {timm.__version__}; a newer one may know it")


def _check_grid(vision: Json, sizes: Sizes, what: str) -> None:
    """A table of positions has a row for each patch (or each cell of a ResNet's last map), and is stored."""
    side, patch = (_largest(vision.get(key), default) for key, default in (("image_size", 224), ("patch_size", 16)))
    cell = 32 if isinstance(vision.get("layers"), list) else min(patch, side)
    rows = (side // cell) ** 2
    if rows > sizes.dimension or rows * int(vision.get("width", 1)) > sizes.elements:
        raise InputError(
            f"{what}: an image of {side} pixels in patches of {cell} needs {rows} positions, but no side of any stored "
            f"tensor exceeds {sizes.dimension}"
        )


def _largest(value: Any, default: int) -> int:
    return max(value) if isinstance(value, list) else int(value or default)
