"""OpenCLIP models: `local-dir:` folders, architecture names with a checkpoint, the hub."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unbackdoor.clip.fitting import fit_state
from unbackdoor.clip.handle import Clip, Format
from unbackdoor.clip.library import guarded
from unbackdoor.clip.preprocess import CLIP_MEAN, CLIP_STD, Frame, checked, checked_side
from unbackdoor.disk import copy_companions, write_text
from unbackdoor.errors import InputError, first_line
from unbackdoor.weights.files import read_checkpoint, write_tensors
from unbackdoor.weights.names import fitted

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
# The library's own order of preference; `.pt` is ours.
_WEIGHTS_NAMES = (
    WEIGHTS,
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "open_clip_model.pt",
)
_HUB_PATTERNS = ["*.json", "*.txt", "*.model"]
# What OpenAI's scripted models carry beside their weights.
_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
Json = dict[str, Any]


def from_folder(folder: Path, reference: str) -> Clip:
    """A folder in OpenCLIP's `local-dir:` scheme."""
    if not folder.is_dir():
        raise InputError(f"{reference}: no such folder")
    path = folder / CONFIG
    try:
        config: Json = json.loads(path.read_text(encoding="utf-8"))
        config["model_cfg"]["vision_cfg"], config["model_cfg"]["text_cfg"]
    except FileNotFoundError:
        raise InputError(f"{reference}: {CONFIG} is missing") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not an OpenCLIP configuration ({type(error).__name__}: {error})") from None
    weights = next((folder / n for n in _WEIGHTS_NAMES if (folder / n).is_file()), None)
    if weights is None:
        raise InputError(f"{reference}: {WEIGHTS} is missing")
    state = read_checkpoint(weights)
    model = _build(lambda: _create(f"local-dir:{folder}"), str(path))
    return _handle(model, state, str(weights), reference, config, folder)


def from_name(name: str, reference: str, checkpoint: Path | None, *, needs_weights: bool = False) -> Clip:
    """An architecture that OpenCLIP knows, with weights from a file or random ones."""
    import open_clip

    config = open_clip.get_model_config(name)
    if config is None:
        near = difflib.get_close_matches(name, open_clip.list_models(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise InputError(f"{name!r} is neither a folder nor an OpenCLIP architecture{hint}")
    if checkpoint is None and needs_weights:
        raise InputError(f"{name}: give its weights with --checkpoint FILE, or write random:{name} for random ones")
    state = None if checkpoint is None else read_checkpoint(checkpoint)
    model = _build(lambda: _create(name), name)
    whole = {"model_cfg": config, "preprocess_cfg": _published_preprocess(name)}
    return _handle(model, state, str(checkpoint), reference, whole, None, name)


def _published_preprocess(name: str) -> Json:
    """The preprocessing of an architecture's published weights where they all agree.

    A bare checkpoint file says nothing about it, and the library's default is wrong for SigLIP among others.
    """
    import open_clip

    keys = ("mean", "std", "interpolation", "resize_mode")
    tags = [open_clip.get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)]
    found: list[Json] = [{k: tag[k] for k in keys if tag.get(k)} for tag in tags]
    return found[0] if found and all(f == found[0] for f in found) else {}


def from_hub(reference: str) -> Clip:
    """A model of the Hugging Face hub in OpenCLIP format; this is the one place that uses the network."""
    from huggingface_hub import snapshot_download

    try:
        # Many repositories hold the same weights in several formats: one file is fetched, the best there is.
        for weights in _WEIGHTS_NAMES:
            folder = snapshot_download(reference.removeprefix("hf-hub:"), allow_patterns=[*_HUB_PATTERNS, weights])
            if (Path(folder) / weights).is_file():
                break
    except Exception as error:  # many kinds, from no network to no such repository; the user needs one line
        raise InputError(f"{reference}: cannot be fetched ({first_line(error)})") from None
    return from_folder(Path(folder), reference)


def _create(name: str) -> nn.Module:
    import open_clip

    # Whatever configuration says, no tower may fetch weights of its own.
    model: nn.Module = open_clip.create_model(
        name, load_weights=False, pretrained_image=False, pretrained_text=False, precision="fp32"
    )
    return model


def _build(create: Callable[[], nn.Module], what: str) -> nn.Module:
    try:
        return create()
    except Exception as error:  # a stranger's configuration can fail anywhere inside the library
        raise InputError(
            f"{what}: OpenCLIP cannot build this model ({type(error).__name__}: {first_line(error)})"
        ) from None


def _conform(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The renamings that OpenCLIP itself makes on loading: old text-tower names, OpenAI's extras, scalar shapes."""
    from open_clip.model import convert_to_custom_text_state_dict

    own = model.state_dict()
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    dropped = (*_NOT_WEIGHTS, "text.transformer.embeddings.position_ids")
    state = {n: t for n, t in state.items() if n in own or n not in dropped}
    for name in ("logit_scale", "logit_bias"):
        if name in own and name in state and state[name].numel() == own[name].numel() == 1:
            state[name] = state[name].reshape(own[name].shape)
    return state


def _handle(
    model: nn.Module,
    state: dict[str, Tensor] | None,
    weights: str,
    reference: str,
    config: Json,
    folder: Path | None,
    name: str | None = None,
) -> Clip:
    model_cfg = config["model_cfg"]
    types: dict[str, torch.dtype] = {}
    if state is not None:
        types = fit_state(model, _conform(model, fitted(state, model.state_dict(), weights)), weights)
    own = getattr(model.visual, "preprocess_cfg", None) or {}
    own = {**(own if isinstance(own, dict) else vars(own)), **(config.get("preprocess_cfg") or {})}
    fit = own.get("resize_mode") or "shortest"
    if fit == "longest" and own.get("fill_color"):
        raise InputError(f"{reference}: fill_color {own['fill_color']!r} is not supported; pictures lie on black")
    side = checked_side(reference, getattr(model.visual, "image_size", None) or model_cfg["vision_cfg"]["image_size"])
    mode = "bilinear" if own.get("interpolation") == "bilinear" else "bicubic"
    preprocess = checked(
        reference, Frame(side, mode, fit), mean=own.get("mean") or CLIP_MEAN, std=own.get("std") or CLIP_STD
    )
    written: Json = {
        **config,
        "preprocess_cfg": {
            **(config.get("preprocess_cfg") or {}),
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "interpolation": mode,
            "resize_mode": fit,
        },
    }

    def save(stored: dict[str, Tensor], target: Path) -> None:
        write_text(target / CONFIG, json.dumps(written, indent=2) + "\n")
        if folder is not None:  # SigLIP and Hugging Face text towers bring tokeniser files
            copy_companions(folder, target, but=(CONFIG,))
        # Last, so that a folder with weights is a whole one.
        write_tensors(target / WEIGHTS, stored, {"format": "pt"})

    tokenizer = f"local-dir:{folder}" if folder is not None else str(name)
    online = reference.startswith("hf-hub:")
    tower = model_cfg.get("vision_cfg", {})
    architecture = name or str(tower.get("timm_model_name") or type(model.visual).__name__)
    layout = Format(
        "open_clip", ("visual.",), _image, _text_encoder(tokenizer, online), save, f"OpenCLIP {architecture}"
    )
    return Clip(model, reference, preprocess, layout, types)


def _image(model: nn.Module, images: Tensor) -> Tensor:
    found: Tensor = model.encode_image(images)  # type: ignore[operator]
    return found


def _text_encoder(tokenizer_name: str, online: bool) -> Callable[[nn.Module, Sequence[str]], Tensor]:
    cache: list[Any] = []

    def text(model: nn.Module, texts: Sequence[str]) -> Tensor:
        import open_clip

        if not cache:
            try:
                with guarded(online=online):
                    cache.append(open_clip.get_tokenizer(tokenizer_name))
            except Exception as error:  # a tokeniser that would have to be fetched fails here too
                raise InputError(
                    f"{tokenizer_name}: its tokeniser cannot be loaded ({first_line(error)}); "
                    "use hf-hub:, or a local-dir: folder that holds the tokeniser's files"
                ) from None
        tokens = cache[0](list(texts)).to(next(model.parameters()).device)
        return _encode_short(model, tokens) if _is_plain_causal(model) else model.encode_text(tokens)  # type: ignore

    return text


def _is_plain_causal(model: nn.Module) -> bool:
    """The original CLIP text tower: causal, read at the end token, so that padding changes nothing."""
    return (
        getattr(model, "text_pool_type", None) == "argmax"
        and isinstance(getattr(model, "attn_mask", None), Tensor)
        and isinstance(getattr(model, "text_projection", None), nn.Parameter)
        and hasattr(model, "token_embedding")
    )


def _encode_short(model: Any, tokens: Tensor) -> Tensor:
    """`encode_text` on tokens cut to the batch's longest text."""
    ends = tokens.argmax(dim=1)
    length = int(ends.max()) + 1
    x = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    found: Tensor = x[torch.arange(len(x), device=x.device), ends] @ model.text_projection
    return found
