"""A model of OpenCLIP that is already in memory, as a `Clip` that can be saved.

The library keeps no configuration in its models. This module reads one off the modules and builds a model from it
without memory (`skeleton`). It saves the configuration with the weights only if both models are the same, module by
module and setting by setting.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import nn

from unbackdoor.base.errors import InputError
from unbackdoor.clip.handle import Clip
from unbackdoor.clip.openclip import Source, Tokenizer, check_towers, create, handle
from unbackdoor.clip.skeleton import outline
from unbackdoor.clip.text_towers import text_config

Json = dict[str, Any]
_WHAT = "a model in memory"
# Settings of modules that say nothing on what they compute.
_PASSING = (
    "training", "output_dict", "grad_checkpointing", "preprocess_cfg", "image_mean", "image_std", "name_or_path",
    "use_checkpoint",
)  # fmt: skip


def is_open_clip(model: nn.Module) -> bool:
    """Whether a module is one of OpenCLIP's dual encoders."""
    from open_clip import CLIP, CoCa, CustomTextCLIP

    return isinstance(model, CLIP | CustomTextCLIP | CoCa)


def from_object(model: nn.Module, tokenizer: Any = None) -> Clip:
    """The handle over a copy of a model of OpenCLIP, with the preprocessing that the library put into it.

    Args:
        tokenizer: OpenCLIP's own; left out for models of CLIP's vocabulary.

    Raises:
        InputError: a model whose configuration cannot be read off it.
    """
    types = {name: t.dtype for name, t in model.state_dict().items()}
    whole: Any = copy.deepcopy(model).float().cpu()
    model_cfg, twin = _configuration(whole)
    for name, parameter in whole.named_parameters():
        parameter.requires_grad_(twin.get_parameter(name).requires_grad)
    check_towers(twin, model_cfg, _WHAT)
    settings, write, make = _tokenizer(tokenizer, whole)
    model_cfg["text_cfg"].update(settings)
    config = {"model_cfg": model_cfg, "preprocess_cfg": dict(getattr(whole.visual, "preprocess_cfg", None) or {})}
    return handle(whole, Source(_WHAT, config, _WHAT, write_tokenizer=write), types, make)


# --- the configuration -----------------------------------------------------------------------------------------------


def _configuration(model: Any) -> tuple[Json, nn.Module]:
    """A `model_cfg` that builds this model, and what it builds, on the meta device."""
    for model_cfg in _candidates(model):
        try:
            twin = outline(lambda model_cfg=model_cfg: create(model_cfg, _WHAT), _WHAT)  # type: ignore[misc]
        except InputError:
            continue
        if _same(model, twin):
            return model_cfg, twin
    raise InputError(
        f"{_WHAT}: its configuration cannot be read off it; give a folder with its weights and open_clip_config.json"
    )


def _candidates(model: Any) -> Iterator[Json]:
    from open_clip import CoCa, CustomTextCLIP
    from open_clip.transformer import QuickGELU

    text = getattr(model, "text", model)
    captions = isinstance(model, CoCa)
    common: Json = {"nonscalar_logit_scale": model.logit_scale.ndim == 1}
    if model.logit_bias is not None:
        common["init_logit_bias"] = -10  # where it starts; the weights say where it is
    if captions:
        decoder = model.text_decoder
        common["multimodal_cfg"] = {
            **_blocks(decoder),
            "context_length": decoder.context_length,
            "width": decoder.width,
        }
    if captions or isinstance(model, CustomTextCLIP):
        common["custom_text"] = True
    words = _hugging_face_text(text) if hasattr(text, "pooler") else _text(model, text)
    quick = any(isinstance(m, QuickGELU) for m in model.modules())
    for vision in _visions(model.visual):
        yield copy.deepcopy({
            "embed_dim": _width(model, text), **({"quick_gelu": True} if quick else {}), "vision_cfg": vision,
            "text_cfg": words, **common,
        })  # fmt: skip


def _width(model: Any, text: Any) -> int:
    """How many numbers an embedding has."""
    projection = getattr(model if text is model else text, "text_projection", None)
    if projection is not None:
        return int(projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1])
    return int(text.output_dim if hasattr(text, "pooler") else text.token_embedding.embedding_dim)


def _visions(visual: Any) -> Iterator[Json]:
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.transformer import VisionTransformer

    side = visual.image_size[0] if isinstance(visual.image_size, tuple | list) else visual.image_size
    common: Json = {"image_size": int(side)}
    if isinstance(visual, VisionTransformer):
        yield {**common, **_vit(visual)}
    elif isinstance(visual, ModifiedResNet):
        width = visual.conv3.out_channels
        counts = [len(getattr(visual, f"layer{i}")) for i in (1, 2, 3, 4)]
        head = {"head_width": width * 32 // visual.attnpool.num_heads}
        yield {**common, "layers": counts, "width": width, **head}
    elif hasattr(visual, "trunk"):
        yield from _timm(visual, common)


def _vit(visual: Any) -> Json:
    config: Json = {
        **_blocks(visual.transformer),
        "width": visual.conv1.out_channels,
        "patch_size": int(visual.patch_size[0]),
        "head_width": visual.conv1.out_channels // _heads(visual.transformer),
        "no_ln_pre": isinstance(visual.ln_pre, nn.Identity),
        "final_ln_after_pool": visual.final_ln_after_pool,
        "output_tokens": visual.output_tokens,
    }
    config.pop("heads")
    if isinstance(visual.patch_dropout, nn.Identity) is False:
        config["patch_dropout"] = visual.patch_dropout.prob
    if visual.attn_pool is None or not visual.attn_pool_type:
        config["pool_type"] = visual.pool_type
    if visual.attn_pool is not None:
        config |= {
            "attentional_pool": visual.attn_pool_type or True,
            "attn_pooler_queries": visual.attn_pool.query.shape[0],
            "attn_pooler_heads": visual.attn_pool.attn.num_heads,
        }
    return config


def _timm(visual: Any, common: Json) -> Iterator[Json]:
    import open_clip

    trunk, head = visual.trunk, visual.head
    name = trunk.default_cfg.get("architecture")
    for known in map(open_clip.get_model_config, open_clip.list_models()):
        if known["vision_cfg"].get("timm_model_name") == name:  # the likeliest first: each is a model to build
            yield {**known["vision_cfg"], **common}
    kinds = {type(layer).__name__: layer for layer in head}
    drops = [m.drop_prob for m in trunk.modules() if type(m).__name__ == "DropPath"]
    common = {
        **common,
        "timm_model_name": name,
        "timm_drop_path": max(drops) if drops else None,
    }
    if "RotAttentionPool2d" in kinds or "AttentionPool2d" in kinds:
        pools = ["rot_attn" if "RotAttentionPool2d" in kinds else "abs_attn"]
    else:
        pools = ["", "avg", "map", "token", "max", "avgmax", "catavgmax"]
    if hasattr(head, "proj"):
        projections = [{"timm_proj": "linear", "timm_proj_bias": head.proj.bias is not None, "timm_drop": head.drop.p}]
    elif hasattr(head, "mlp"):
        last = head.mlp.fc2
        projections = [{"timm_proj": "mlp", "timm_proj_bias": last.bias is not None, "timm_drop": head.mlp.drop1.p}]
    else:
        projections = [{"timm_proj": "none"}, {"timm_proj": ""}]
    for pool, projection in itertools.product(pools, projections):
        yield {**common, "timm_pool": pool, **projection}


def _text(model: Any, text: Any) -> Json:
    projection = model.text_projection if text is model else text.text_projection
    table, cls = text.token_embedding, getattr(text, "cls_emb", None)
    config: Json = {
        **_blocks(text.transformer),
        "context_length": text.context_length,
        "vocab_size": table.num_embeddings,
        "width": table.embedding_dim,
        "no_causal_mask": text.attn_mask is None,
        "pool_type": text.text_pool_type if text is model else text.pool_type,
        "eos_id": text.text_eos_id if text is model else text.eos_id,
        "proj_type": "none" if projection is None else "linear",
        "proj_bias": isinstance(projection, nn.Linear),
        "embed_cls": cls is not None,
    }
    if text is not model:
        config |= {"pad_id": text.pad_id, "output_tokens": text.output_tokens}
    return config


def _hugging_face_text(text: Any) -> Json:
    name = str(getattr(text.config, "name_or_path", ""))
    text_config(name, _WHAT)
    kind = type(text.pooler).__name__
    projection = "linear" if isinstance(text.proj, nn.Linear) else "mlp" if len(text.proj._modules) else None
    poolers = {
        "MeanPooler": "mean_pooler", "MaxPooler": "max_pooler", "ClsPooler": "cls_pooler",
        "ClsLastHiddenStatePooler": "cls_last_hidden_state_pooler",
    }  # fmt: skip
    return {
        "hf_model_name": name, "hf_tokenizer_name": name, "hf_proj_type": projection,
        "hf_pooler_type": poolers.get(kind, kind), "output_tokens": text.output_tokens,
    }  # fmt: skip


def _blocks(transformer: Any) -> Json:
    """What all blocks of OpenCLIP's own transformers are built with, read off the first."""
    block = transformer.resblocks[0]
    width, inner = block.mlp.c_fc.in_features, block.mlp.c_fc.out_features
    config: Json = {
        "layers": len(transformer.resblocks),
        "heads": _heads(transformer),
        "mlp_ratio": inner / width if int(width * (inner / width)) == inner else (inner + 0.5) / width,
    }
    if not isinstance(block.ls_1, nn.Identity):
        config["ls_init_value"] = 1e-5  # where it starts; the weights say where it is
    if getattr(block.mlp.gelu, "approximate", "none") != "none":
        config["act_kwargs"] = {"approximate": block.mlp.gelu.approximate}
    if block.ln_1.eps != 1e-5:
        config["norm_kwargs"] = {"eps": block.ln_1.eps}
    return config


def _heads(transformer: Any) -> int:
    return int(transformer.resblocks[0].attn.num_heads)


def _same(model: nn.Module, twin: nn.Module) -> bool:
    """Whether two models have the same modules with the same settings, and tensors of the same names and shapes."""
    ours, theirs = dict(model.named_modules()), dict(twin.named_modules())
    tensors = [
        {name: t.shape for name, t in itertools.chain(m.named_parameters(), m.named_buffers())} for m in (model, twin)
    ]
    return (
        ours.keys() == theirs.keys()
        and tensors[0] == tensors[1]
        and all(type(ours[name]) is type(theirs[name]) for name in ours)
        and all(_settings(ours[name]) == _settings(theirs[name]) for name in ours)
    )


def _settings(module: nn.Module) -> Json:
    plain = (bool, int, float, str, type(None))
    return {
        key: value
        for key, value in vars(module).items()
        if key not in _PASSING
        and not key.startswith("_")
        and (isinstance(value, plain) or (isinstance(value, tuple) and all(isinstance(v, plain) for v in value)))
    }


# --- the tokenizer ---------------------------------------------------------------------------------------------------


def _tokenizer(
    tokenizer: Any, model: Any
) -> tuple[Json, Callable[[Path], None] | None, Callable[[], Tokenizer] | None]:
    """What a configuration says of a tokenizer, what writes its files, and what gives it."""
    from open_clip.tokenizer import HFTokenizer, SigLipTokenizer, SimpleTokenizer

    if tokenizer is None:
        return {}, None, None if _speaks_clip(model) else _ask
    clean = getattr(getattr(tokenizer, "clean_fn", None), "__name__", "").removeprefix("_clean_")
    if type(tokenizer) is SimpleTokenizer and tokenizer.reduction_fn is None and len(tokenizer.all_special_ids) == 2:
        return {"tokenizer_kwargs": {"clean": clean}}, None, lambda: tokenizer
    if isinstance(tokenizer, HFTokenizer | SigLipTokenizer):
        settings: Json = {"clean": clean or "canonicalize"}
        if getattr(tokenizer, "strip_sep_token", False):
            settings["strip_sep_token"] = True
        named: Json = {"hf_tokenizer_name": "tokenizer", "tokenizer_kwargs": settings}
        if getattr(tokenizer, "tokenizer_mode", ""):
            named["tokenizer_mode"] = tokenizer.tokenizer_mode
        return named, lambda folder: tokenizer.save_pretrained(str(folder)), lambda: tokenizer
    if not callable(tokenizer):
        raise InputError(f"{_WHAT}: a {type(tokenizer).__name__} is no tokenizer; give one of open_clip.get_tokenizer")
    return {}, _refuse, lambda: tokenizer


def _speaks_clip(model: Any) -> bool:
    text = getattr(model, "text", model)
    return getattr(getattr(text, "token_embedding", None), "num_embeddings", 0) == 49408


def _ask() -> Tokenizer:
    raise InputError(f"{_WHAT}: has another vocabulary than CLIP's; give its tokenizer as tokenizer=…")


def _refuse(folder: Path) -> None:
    raise InputError(f"{folder}: not saved: the model's tokenizer is a function, which no folder can hold")
