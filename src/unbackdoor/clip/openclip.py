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
from unbackdoor.clip.preprocess import Preprocess
from unbackdoor.errors import InputError
from unbackdoor.weights.files import read_checkpoint, write_tensors, write_text

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
_OLD_WEIGHTS = ("open_clip_pytorch_model.bin", "open_clip_model.pt")
Json = dict[str, Any]


def from_folder(folder: Path, reference: str) -> Clip:
    """A folder in OpenCLIP's `local-dir:` scheme."""
    if not folder.is_dir():
        raise InputError(f"{reference}: no such folder")
    path = folder / CONFIG
    try:
        config: Json = json.loads(path.read_text(encoding="utf-8"))
        model_cfg = config["model_cfg"]
    except FileNotFoundError:
        raise InputError(f"{reference}: {CONFIG} is missing") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not an OpenCLIP configuration ({type(error).__name__}: {error})") from None
    weights = next((folder / n for n in (WEIGHTS, *_OLD_WEIGHTS) if (folder / n).is_file()), None)
    if weights is None:
        raise InputError(f"{reference}: {WEIGHTS} is missing")
    state = read_checkpoint(weights)
    model = _build(lambda: _create(f"local-dir:{folder}"), str(path))
    return _handle(model, state, str(weights), reference, model_cfg, config.get("preprocess_cfg") or {}, folder)


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
    return _handle(model, state, str(checkpoint), reference, config, {}, None, name)


def from_hub(reference: str) -> Clip:
    """A model of the Hugging Face hub in OpenCLIP format; this is the one place that uses the network."""
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.json", "*.txt", "*.model", "*.safetensors"]
        folder = snapshot_download(reference.removeprefix("hf-hub:"), allow_patterns=patterns)
    except Exception as error:  # many kinds, from no network to no such repository; the user needs one line
        raise InputError(f"{reference}: cannot be fetched ({str(error).splitlines()[0][:160]})") from None
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
        reason = str(error).splitlines()[0][:160] if str(error) else ""
        raise InputError(f"{what}: OpenCLIP cannot build this model ({type(error).__name__}: {reason})") from None


def _handle(
    model: nn.Module,
    state: dict[str, Tensor] | None,
    weights: str,
    reference: str,
    model_cfg: Json,
    preprocess_cfg: Json,
    folder: Path | None,
    name: str | None = None,
) -> Clip:
    types = fit_state(model, state, weights) if state is not None else {}
    own = getattr(model.visual, "preprocess_cfg", None) or {}
    own = {**(own if isinstance(own, dict) else vars(own)), **preprocess_cfg}
    size = getattr(model.visual, "image_size", None) or model_cfg["vision_cfg"]["image_size"]
    side = int(size[0] if isinstance(size, tuple | list) else size)
    preprocess = Preprocess(
        size=side,
        mean=tuple(own.get("mean") or (0.48145466, 0.4578275, 0.40821073)),
        std=tuple(own.get("std") or (0.26862954, 0.26130258, 0.27577711)),
        mode="bilinear" if own.get("interpolation") == "bilinear" else "bicubic",
        squash=own.get("resize_mode") == "squash",
    )
    written: Json = {
        "model_cfg": model_cfg,
        "preprocess_cfg": {
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "interpolation": preprocess.mode,
            "resize_mode": "squash" if preprocess.squash else own.get("resize_mode") or "shortest",
        },
    }

    def save(stored: dict[str, Tensor], target: Path) -> None:
        write_text(target / CONFIG, json.dumps(written, indent=2) + "\n")
        _copy_tokenizer(folder, target)
        # Last, so that a folder with weights is a whole one.
        write_tensors(target / WEIGHTS, stored, {"format": "pt"})

    tokenizer = f"local-dir:{folder}" if folder is not None else str(name)
    tower = model_cfg.get("vision_cfg", {})
    architecture = name or str(tower.get("timm_model_name") or type(model.visual).__name__)
    layout = Format("open_clip", ("visual.",), _image, _text_encoder(tokenizer), save, f"OpenCLIP {architecture}")
    return Clip(model, reference, preprocess, layout, types)


def _copy_tokenizer(folder: Path | None, target: Path) -> None:
    """Tokeniser files of folders that bring their own (SigLIP and other Hugging Face text towers)."""
    if folder is None:
        return
    for file in folder.iterdir():
        token_file = file.suffix in (".json", ".txt", ".model") and file.name != CONFIG
        if token_file and file.is_file() and not file.is_symlink() and file.parent != target:
            content = file.read_bytes()
            if not (target / file.name).exists():
                (target / file.name).write_bytes(content)


def _image(model: nn.Module, images: Tensor) -> Tensor:
    found: Tensor = model.encode_image(images)  # type: ignore[operator]
    return found


def _text_encoder(tokenizer_name: str) -> Callable[[nn.Module, Sequence[str]], Tensor]:
    cache: list[Any] = []

    def text(model: nn.Module, texts: Sequence[str]) -> Tensor:
        import open_clip

        if not cache:
            try:
                cache.append(open_clip.get_tokenizer(tokenizer_name))
            except Exception as error:  # a tokeniser that must be fetched fails here when offline
                reason = str(error).splitlines()[0][:160]
                raise InputError(f"{tokenizer_name}: its tokeniser cannot be loaded ({reason})") from None
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
