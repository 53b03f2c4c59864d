"""Hugging Face folders: `CLIPModel`, `SiglipModel`, `VisionTextDualEncoderModel`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unbackdoor.clip.fitting import fit_state
from unbackdoor.clip.handle import Clip, Format
from unbackdoor.clip.library import guarded
from unbackdoor.clip.preprocess import Preprocess, checked_side
from unbackdoor.clip.processor import Tower, preprocess, read_settings
from unbackdoor.disk import copy_companions, write_text
from unbackdoor.errors import InputError, first_line
from unbackdoor.weights.files import read_checkpoint, write_tensors
from unbackdoor.weights.stored import beside

_TABLE = {
    "clip": ("CLIPModel", ("vision_model.", "visual_projection.")),
    "siglip": ("SiglipModel", ("vision_model.",)),
    "vision-text-dual-encoder": ("VisionTextDualEncoderModel", ("vision_model.", "visual_projection.")),
}
_DUAL = "vision-text-dual-encoder"
_WEIGHTS, _INDEX, _OLD = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
_TOKENIZERS = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)


def from_folder(folder: Path, reference: str) -> Clip:
    """A folder with `config.json` and weights; nothing is fetched and no code of the folder is run."""
    try:
        import transformers
    except ImportError:
        raise InputError(f"{reference}: Hugging Face models need transformers; install unbackdoor[hf]") from None
    config = _read_json(folder / "config.json")
    kind = str(config.get("model_type"))
    if kind not in _TABLE:
        # Siglip2Model takes packed patches of any aspect, not images; fixed-size SigLIP 2 models say siglip.
        raise InputError(f"{reference}: model_type {kind!r} is none of {', '.join(_TABLE)}")
    name, prefixes = _TABLE[kind]
    try:
        model_class = getattr(transformers, name)
        model: nn.Module = model_class(model_class.config_class.from_dict(config)).float()
    except Exception as error:  # a stranger's configuration can fail anywhere inside the library
        raise InputError(f"{folder / 'config.json'}: {name} cannot be built ({first_line(error)})") from None
    state, files = _read_weights(folder, reference)
    own = model.state_dict()
    # Old files hold these counters, which newer versions compute; they go back unchanged.
    counters = {k: v for k, v in state.items() if k not in own and k.endswith("position_ids")}
    types = fit_state(model, {k: v for k, v in state.items() if k not in counters}, reference)

    def save(stored: dict[str, Tensor], target: Path) -> None:
        copy_companions(folder, target, but=("config.json",))
        write_text(target / "config.json", json.dumps(config, indent=2) + "\n")
        _write_weights({**stored, **counters}, files, target)

    layout = Format("hf", prefixes, _image, _text_encoder(folder, config, kind), save, f"Hugging Face {name}")
    return Clip(model, reference, _preprocess(folder, config), layout, types)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable JSON ({error})") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds no JSON object")
    return found


def _read_weights(folder: Path, reference: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state dict, and which file held which tensor."""
    if (folder / _INDEX).is_file():
        found = _read_json(folder / _INDEX).get("weight_map")
        if not isinstance(found, dict) or not found:
            raise InputError(f"{folder / _INDEX}: holds no weight_map; fetch the model again")
        places = {str(k): str(v) for k, v in found.items()}
        if not all(beside(f) for f in places.values()):
            raise InputError(f"{folder / _INDEX}: names a file outside its folder; the index is damaged or hostile")
        shards = {f: read_checkpoint(folder / f) for f in sorted(set(places.values()))}
        missing = [n for n, f in places.items() if n not in shards[f]]
        if missing:
            raise InputError(f"{folder / _INDEX}: {len(missing)} tensors are not where it says (first {missing[0]})")
        return {n: shards[f][n] for n, f in places.items()}, places
    for file in (_WEIGHTS, _OLD):
        if (folder / file).is_file():
            state = read_checkpoint(folder / file)
            return state, dict.fromkeys(state, _WEIGHTS)
    raise InputError(f"{reference}: neither {_WEIGHTS} nor {_INDEX} is there")


def _write_weights(stored: dict[str, Tensor], files: dict[str, str], target: Path) -> None:
    """One file, or the same shards with their index."""
    shards: dict[str, dict[str, Tensor]] = {}
    for name, tensor in stored.items():
        if name in files:  # buffers that the file left out stay out
            shards.setdefault(files[name], {})[name] = tensor
    for file, tensors in shards.items():
        write_tensors(target / file, tensors, {"format": "pt"})
    if set(shards) != {_WEIGHTS}:
        total = sum(t.numel() * t.element_size() for t in stored.values())
        index = {"metadata": {"total_size": total}, "weight_map": {n: f for n, f in files.items() if n in stored}}
        write_text(target / _INDEX, json.dumps(index, indent=2) + "\n")


def _preprocess(folder: Path, config: dict[str, Any]) -> Preprocess:
    settings = read_settings(folder)
    vision = config.get("vision_config") or {}
    kind = str(config.get("model_type"))
    side = checked_side(str(folder / "config.json"), vision.get("image_size") or 224)
    tower = Tower(str(vision.get("model_type")) if kind == _DUAL else kind, side, True)
    return preprocess(str(folder), settings or {}, tower, white=_puts_on_white())


def _puts_on_white() -> bool:
    """Whether the library that is installed puts transparent pictures on white: a transparent pixel tells."""
    from PIL import Image
    from transformers.image_transforms import convert_to_rgb

    with guarded():
        pixel = convert_to_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 0)))
    return bool(pixel.getpixel((0, 0)) == (255, 255, 255))


def _pooled(found: Any) -> Tensor:
    """transformers 5 returns an output object where 4 returned the tensor."""
    pooled: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return pooled


def _image(model: nn.Module, images: Tensor) -> Tensor:
    return _pooled(model.get_image_features(pixel_values=images))  # type: ignore[operator]


def _text_encoder(folder: Path, config: dict[str, Any], kind: str) -> Callable[[nn.Module, Sequence[str]], Tensor]:
    cache: list[Callable[[list[str]], dict[str, Tensor]]] = []

    def text(model: nn.Module, texts: Sequence[str]) -> Tensor:
        if not cache:
            cache.append(_tokenizer(folder, config, kind))
        device = next(model.parameters()).device
        inputs = {k: v.to(device) for k, v in cache[0](list(texts)).items()}
        return _pooled(model.get_text_features(**inputs))  # type: ignore[operator]

    return text


def _tokenizer(folder: Path, config: dict[str, Any], kind: str) -> Callable[[list[str]], dict[str, Tensor]]:
    text_config = config.get("text_config") or {}
    length = int(text_config.get("max_position_embeddings") or 77)
    if any((folder / f).is_file() for f in _TOKENIZERS):
        from transformers import AutoTokenizer

        try:
            with guarded():
                found = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        except Exception as error:  # damaged files fail in many ways
            raise InputError(f"{folder}: its tokeniser cannot be loaded ({first_line(error)})") from None
        padding = "max_length" if kind.startswith("siglip") else "longest"

        def tokenize(texts: list[str]) -> dict[str, Tensor]:
            encoded = found(texts, padding=padding, truncation=True, max_length=length, return_tensors="pt")
            keys = ("input_ids",) if kind.startswith("siglip") else ("input_ids", "attention_mask")
            return {k: encoded[k] for k in keys}

        return tokenize
    if kind == "clip" and int(text_config.get("vocab_size") or 49408) == 49408:
        import open_clip

        plain = open_clip.SimpleTokenizer(context_length=length)

        def tokenize_bpe(texts: list[str]) -> dict[str, Tensor]:
            ids = plain(texts)
            ends = ids.argmax(dim=1)
            ids = ids[:, : int(ends.max()) + 1]
            mask = torch.arange(ids.shape[1]) <= ends[:, None]
            return {"input_ids": ids, "attention_mask": mask.long()}

        return tokenize_bpe
    raise InputError(f"{folder}: no tokeniser files, so no text can be encoded; add tokenizer.json")
