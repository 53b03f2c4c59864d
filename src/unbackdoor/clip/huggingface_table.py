"""What a Hugging Face `config.json` may say: the dual encoders that are known, the towers of each, and their settings.

Only what is listed here reaches the library, value by value; the rest of a configuration (notes, defaults of other
tasks, names of other models) is dropped. A setting that is not listed and would change the model's output is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unbackdoor.base.errors import InputError
from unbackdoor.clip.allowed import (
    Rule,
    Sizes,
    check_keys,
    flag,
    layers,
    maybe,
    real,
    several,
    side,
    whole,
    words,
)
from unbackdoor.clip.preprocess import checked_side
from unbackdoor.clip.processor import Tower

Json = dict[str, Any]
DUAL = "vision-text-dual-encoder"


@dataclass(frozen=True)
class Family:
    """A kind of dual encoder.

    Args:
        architecture: the library's class.
        rules: of the top level.
        vision, text: model type of the tower, where the family has but one.
        image_prefixes: of state names that belong to the image tower and its projection.
        padded: texts are padded to the longest the model takes, and no mask tells; otherwise to the batch's longest.
        idle: modules that no embedding passes through, which some versions have and some files hold.
    """

    architecture: str
    rules: Mapping[str, Rule]
    vision: str = ""
    text: str = ""
    image_prefixes: tuple[str, ...] = ("vision_model.", "visual_projection.")
    padded: bool = False
    idle: tuple[str, ...] = ()


_WIDTH = whole(1, 1 << 20)
_RATE = real(0, 1)
_EPS = real(0, 1)
_ACT = words(
    "gelu", "quick_gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh", "gelu_accurate", "relu", "silu",
    "swish", "tanh", "mish", "leaky_relu", "relu6", "sigmoid", "selu", "elu",
)  # fmt: skip
_SIDE, _PATCH = side(), side(256)
_FACTOR = real(-1e6, 1e6)
_TOKEN = maybe(whole(0, 1 << 24))

_BLOCKS: dict[str, Rule] = {
    "hidden_size": _WIDTH,
    "num_hidden_layers": layers(),
    "num_attention_heads": whole(1, 1 << 12),
    "hidden_act": _ACT,
    "layer_norm_eps": _EPS,
}
_DROPOUT: dict[str, Rule] = {"hidden_dropout_prob": _RATE, "attention_probs_dropout_prob": _RATE}
_PICTURE: dict[str, Rule] = {"image_size": _SIDE, "patch_size": _PATCH, "num_channels": whole(3, 3)}
_OF_CLIP: dict[str, Rule] = {
    **_BLOCKS,
    "intermediate_size": _WIDTH,
    "attention_dropout": _RATE,
    "projection_dim": _WIDTH,
}
_VIT: dict[str, Rule] = {**_BLOCKS, **_DROPOUT, **_PICTURE, "intermediate_size": _WIDTH}
_DINOV2: dict[str, Rule] = {
    **_BLOCKS, **_DROPOUT, **_PICTURE, "mlp_ratio": real(0.01, 64), "qkv_bias": flag(), "layerscale_value": _FACTOR,
    "drop_path_rate": _RATE, "use_swiglu_ffn": flag(),
}  # fmt: skip
_SWIN: dict[str, Rule] = {
    **_DROPOUT, **_PICTURE, "embed_dim": _WIDTH, "depths": several(layers(), 1, 8),
    "num_heads": several(whole(1, 1 << 12), 1, 8), "window_size": whole(1, 64), "mlp_ratio": real(0.01, 64),
    "qkv_bias": flag(), "drop_path_rate": _RATE, "hidden_act": _ACT, "use_absolute_embeddings": flag(),
    "layer_norm_eps": _EPS,
}  # fmt: skip
_CONVNEXT: dict[str, Rule] = {
    **_PICTURE, "num_stages": whole(1, 8), "hidden_sizes": several(_WIDTH, 1, 8), "depths": several(layers(), 1, 8),
    "hidden_act": _ACT, "layer_norm_eps": _EPS, "drop_path_rate": _RATE,
    # Not the class's own, but what `VisionTextDualEncoderModel` asks every tower for.
    "hidden_size": _WIDTH,
}  # fmt: skip
_CLIP_VISION: dict[str, Rule] = {**_OF_CLIP, **_PICTURE}
_POOLED: dict[str, Rule] = {"pooler_output_size": maybe(_WIDTH), "pooler_act": _ACT, "qkv_bias": flag()}
VISION: dict[str, dict[str, Rule]] = {
    "clip_vision_model": _CLIP_VISION,
    "chinese_clip_vision_model": _CLIP_VISION,
    "altclip_vision_model": _CLIP_VISION,
    "metaclip_2_vision_model": _CLIP_VISION,
    "siglip_vision_model": {**_CLIP_VISION, "vision_use_head": flag()},
    "vit": {**_VIT, **_POOLED},
    "deit": {**_VIT, **_POOLED},
    "beit": {
        **_VIT, "use_mask_token": flag(), "use_absolute_position_embeddings": flag(),
        "use_relative_position_bias": flag(), "use_shared_relative_position_bias": flag(), "use_mean_pooling": flag(),
        "layer_scale_init_value": maybe(_FACTOR), "drop_path_rate": _RATE,
    },
    "dinov2": {**_DINOV2, "use_mask_token": flag()},
    "dinov2_with_registers": {**_DINOV2, "num_register_tokens": whole(0, 256)},
    "swin": _SWIN,
    "swinv2": {**_SWIN, "pretrained_window_sizes": several(whole(0, 256), 1, 8)},
    "convnext": {**_CONVNEXT, "layer_scale_init_value": maybe(_FACTOR)},
    "convnextv2": _CONVNEXT,
}  # fmt: skip
# Those whose tables of positions fit one size alone.
_FIXED = (
    "clip_vision_model", "chinese_clip_vision_model", "altclip_vision_model", "metaclip_2_vision_model",
    "siglip_vision_model", "vit", "deit",
)  # fmt: skip

_TOKENS: dict[str, Rule] = {
    "vocab_size": whole(1, 1 << 24), "max_position_embeddings": whole(1, 1 << 12), "pad_token_id": _TOKEN,
    "bos_token_id": _TOKEN, "eos_token_id": _TOKEN,
}  # fmt: skip
_CLIP_TEXT: dict[str, Rule] = {**_OF_CLIP, **_TOKENS}
_BERT: dict[str, Rule] = {
    **_BLOCKS, **_DROPOUT, **_TOKENS, "intermediate_size": _WIDTH, "type_vocab_size": whole(1, 1 << 12),
}  # fmt: skip
TEXT: dict[str, dict[str, Rule]] = {
    "clip_text_model": _CLIP_TEXT,
    "metaclip_2_text_model": _CLIP_TEXT,
    "siglip_text_model": {**_CLIP_TEXT, "projection_size": maybe(_WIDTH)},
    "bert": _BERT,
    "chinese_clip_text_model": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "camembert": _BERT,
    "xlm-roberta-xl": _BERT,
    "altclip_text_model": {**_BERT, "project_dim": _WIDTH},
    "albert": {
        **_BERT, "embedding_size": _WIDTH, "num_hidden_groups": whole(1, 12), "inner_group_num": whole(1, 4),
    },
    "mpnet": {**_BERT, "relative_attention_num_buckets": whole(2, 1 << 12)},
}  # fmt: skip
# What would make another model of it, wherever it stands; never handed on.
_MUST: dict[str, Rule] = {
    "auto_map": Rule("empty, as no code of a folder is run", lambda v: not v),
    "quantization_config": Rule("empty, as quantised weights have no arithmetic", lambda v: not v),
    "pruned_heads": Rule("empty", lambda v: not v),
    "is_decoder": Rule("false", lambda v: v is None or v is False),
    "add_cross_attention": Rule("false", lambda v: v is None or v is False),
    "position_embedding_type": maybe(words("absolute")),
    "pooler_fn": maybe(words("cls")),
}
# What plays no part once weights are there, or is worked out from the rest.
_IDLE = frozenset((
    "initializer_range", "initializer_factor", "logit_scale_init_value", "classifier_dropout",
    "classifier_dropout_prob", "use_cache", "encoder_stride", "out_features", "out_indices", "stage_names",
    "_out_features", "_out_indices", "pool_scales", "use_auxiliary_head", "auxiliary_loss_weight",
    "auxiliary_channels", "auxiliary_num_convs", "auxiliary_concat_input", "semantic_loss_ignore_index", "add_fpn",
    "apply_layernorm", "reshape_hidden_states", "tie_word_embeddings", "model_type", "num_layers", "hidden_size",
    "vocab_size",
))  # fmt: skip
# Their positions begin after the padding token's number.
_SHIFTED = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "altclip_text_model", "mpnet")

_PROJECTED = {"projection_dim": _WIDTH}
FAMILIES: dict[str, Family] = {
    "clip": Family("CLIPModel", _PROJECTED, "clip_vision_model", "clip_text_model"),
    "siglip": Family("SiglipModel", {}, "siglip_vision_model", "siglip_text_model", ("vision_model.",), padded=True),
    # Both take the first token's own embedding, not what a pooler makes of it.
    "chinese_clip": Family(
        "ChineseCLIPModel", _PROJECTED, "chinese_clip_vision_model", "chinese_clip_text_model",
        idle=("text_model.pooler",),
    ),
    "altclip": Family(
        "AltCLIPModel", _PROJECTED, "altclip_vision_model", "altclip_text_model", idle=("text_model.roberta.pooler",)
    ),
    "metaclip_2": Family("MetaClip2Model", _PROJECTED, "metaclip_2_vision_model", "metaclip_2_text_model"),
    DUAL: Family("VisionTextDualEncoderModel", _PROJECTED),
}  # fmt: skip

# Known to be something else.
_OTHERS = {
    "siglip2": "it takes patches of any aspect, not pictures of one size; fixed-size SigLIP 2 models say siglip",
    "clipseg": "it is made for segmentation",
}


@dataclass(frozen=True)
class Listed:
    """What of a configuration is handed on.

    Args:
        family: what it is a kind of.
        vision, text: model types of the towers.
        config: the dictionary that the library gets.
    """

    family: Family
    vision: str
    text: str
    config: Json


def listed(config: Json, what: str, sizes: Sizes | None = None) -> Listed:
    """What a `config.json` says of the model, without the rest.

    Args:
        what: where it stands, for errors.
        sizes: what the weights hold, where that is known.

    Raises:
        InputError: another kind of model, a tower that is not known, or a setting that is not allowed.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        why = f"; {_OTHERS[kind]}" if isinstance(kind, str) and kind in _OTHERS else ""
        raise InputError(f"{what}: model_type {str(kind)[:60]!r} is none of {', '.join(FAMILIES)}{why}")
    family = FAMILIES[kind]
    passed = {"model_type": kind, **_part(config, family.rules, kind, what, sizes)}
    towers = []
    for part, known, own in (("vision_config", VISION, family.vision), ("text_config", TEXT, family.text)):
        settings = config.get(part)
        if not isinstance(settings, dict):
            raise InputError(f"{what}: {part} is no object of settings; fetch the file again")
        tower = own or settings.get("model_type")
        if not isinstance(tower, str) or tower not in known:
            raise InputError(
                f"{what}: {part}.model_type {str(tower)[:60]!r} is no tower that is known; choose one of "
                f"{', '.join(known)}"
            )
        towers.append(tower)
        passed[part] = {"model_type": tower, **_part(settings, known[tower], tower, f"{what}: {part}", sizes)}
        # Of before transformers 4.27; the library merges it by rules of its own.
        older = config.get(f"{part}_dict")
        if isinstance(older, dict) and own:
            passed[f"{part}_dict"] = _part(older, known[tower], tower, f"{what}: {part}_dict", sizes)
    return Listed(family, towers[0], towers[1], passed)


def _part(settings: Json, rules: Mapping[str, Rule], kind: str, what: str, sizes: Sizes | None) -> Json:
    check_keys({k: v for k, v in settings.items() if k in _MUST}, _MUST, what)
    known = {k: v for k, v in settings.items() if k in rules}
    check_keys(known, rules, what, sizes)
    _check_dropped(settings, rules, kind, what)
    return known


def _check_dropped(settings: Json, rules: Mapping[str, Rule], kind: str, what: str) -> None:
    """Refuse a setting that is dropped though this kind of model has it, unless its value is the library's default."""
    from transformers import CONFIG_MAPPING, PretrainedConfig

    if kind not in CONFIG_MAPPING:
        raise InputError(f"{what}: {kind!r} is no kind of model that this version of transformers has; a newer one may")
    whole_class = CONFIG_MAPPING[kind]
    # Before 5.20 the library makes no dual encoder without towers.
    parts = {"vision_config": {"model_type": "vit"}, "text_config": {"model_type": "bert"}} if kind == DUAL else {}
    usual, of_all = whole_class(**parts), PretrainedConfig()
    aliases = getattr(whole_class, "attribute_map", {})
    for key, value in settings.items():
        other = key not in rules and key not in _MUST and key not in _IDLE and key not in aliases
        if other and not key.endswith(("_config", "_config_dict")) and hasattr(usual, key) and not hasattr(of_all, key):
            default = getattr(usual, key)
            if value != (list(default) if isinstance(default, tuple) else default):
                raise InputError(f"{what}: {key} is {str(value)[:60]!r}, which is not supported here; {default!r} is")


def image_tower(kind: str, vision: Any, what: str) -> Tower:
    """What the image tower takes.

    Args:
        vision: the library's configuration of it.

    Raises:
        InputError: pictures that are not square.
    """
    return Tower(kind, checked_side(what, getattr(vision, "image_size", None) or 224), kind in _FIXED)


# Of published towers, ViT-B/8 has 2,304 patches at 384 pixels, DINOv2-g 1,369 of 8,192 numbers at 518, and the stem of
# ConvNeXt-XL 64 numbers by pixel. The largest side is 560.
_MOST_PATCHES, _MOST_NUMBERS, _MOST_BY_PIXEL, _LONGEST_SIDE = 1 << 12, 12 << 20, 64, 640


def check_work(kind: str, vision: Any, side: int, what: str) -> None:
    """Whether pictures of `side` pixels ask for no more patches, and numbers for each, than any published tower.

    Weights bound neither: the small ones of a wide tower with tiny patches make gigabytes of one picture.

    Args:
        vision: the library's configuration of the tower.

    Raises:
        InputError: they do.
    """
    patch = getattr(vision, "patch_size", None) or 16
    patch = min(patch) if isinstance(patch, list | tuple) else int(patch)
    hierarchy = getattr(vision, "hidden_sizes", None) or [getattr(vision, "embed_dim", None)]
    width = int(hierarchy[0] or vision.hidden_size)
    ratio = 4.0 if hasattr(vision, "hidden_sizes") else float(getattr(vision, "mlp_ratio", None) or 1)
    widest = max(width * ratio, width, getattr(vision, "intermediate_size", None) or 0)
    patches = (side // patch) ** 2
    flat = kind not in ("swin", "swinv2", "convnext", "convnextv2")
    by_pixel = widest / patch**2
    wide = (flat and patches > _MOST_PATCHES) or patches * widest > _MOST_NUMBERS or by_pixel > _MOST_BY_PIXEL
    if wide or side > _LONGEST_SIDE:
        raise InputError(
            f"{what}: pictures of {side} pixels in {patches:,} patches with {int(widest):,} numbers each are more than "
            "any published image tower takes"
        )


def longest_text(kind: str, text: Any) -> int:
    """Tokens of the longest text that a text tower takes.

    Args:
        text: the library's configuration of it.
    """
    length = int(getattr(text, "max_position_embeddings", None) or 77)
    return max(1, length - int(text.pad_token_id) - 1) if kind in _SHIFTED else length
