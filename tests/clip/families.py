"""Test-only: tiny versions of every Hugging Face dual encoder that is known here, as their own library saves them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SIDE, WIDTH = 32, 16
WORDS = "a photo of the star cat dog zero one two three four five six seven eight nine red blue".split()  # noqa: SIM905
_BLOCKS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_PICTURE = {"image_size": SIDE, "patch_size": 8}
_DINO = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "mlp_ratio": 2}
_SWIN = {"image_size": SIDE, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
_CONVNEXT = {
    "image_size": SIDE, "hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2, "hidden_size": 32,
}  # fmt: skip
# Name → model type and settings; those of a dual encoder's image tower, with BERT for texts.
VISION: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit", {**_BLOCKS, **_PICTURE}),
    "deit": ("deit", {**_BLOCKS, **_PICTURE}),
    "beit": ("beit", {**_BLOCKS, **_PICTURE}),
    "beit-shared-positions": ("beit", {**_BLOCKS, **_PICTURE, "use_shared_relative_position_bias": True}),
    "beit-positions": ("beit", {**_BLOCKS, **_PICTURE, "use_relative_position_bias": True}),
    "dinov2": ("dinov2", {**_DINO, **_PICTURE}),
    "dinov2-gated": ("dinov2", {**_DINO, **_PICTURE, "use_swiglu_ffn": True}),
    "dinov2-registers": ("dinov2_with_registers", {**_DINO, **_PICTURE}),
    "swin": ("swin", _SWIN),
    "swinv2": ("swinv2", _SWIN),
    "convnext": ("convnext", _CONVNEXT),
    "convnextv2": ("convnextv2", _CONVNEXT),
    "clip-vision": ("clip_vision_model", {**_BLOCKS, **_PICTURE}),
    "siglip-vision": ("siglip_vision_model", {**_BLOCKS, **_PICTURE}),
}
# Text towers of a dual encoder, with a ViT for images.
TEXT: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", _BLOCKS),
    "roberta": ("roberta", {**_BLOCKS, "max_position_embeddings": 24}),
    "xlm-roberta": ("xlm-roberta", _BLOCKS),
    "camembert": ("camembert", _BLOCKS),
    "mpnet": ("mpnet", _BLOCKS),
    "albert": ("albert", {**_BLOCKS, "embedding_size": 16}),
    "clip-text": ("clip_text_model", {**_BLOCKS, "eos_token_id": 3}),
}
_CLIP_TEXT = {**_BLOCKS, "max_position_embeddings": 16, "eos_token_id": 3, "pad_token_id": 0, "bos_token_id": 2}
# The others, all in one class of the library's.
WHOLE: dict[str, dict[str, Any]] = {
    "clip": {"text_config": _CLIP_TEXT},
    "siglip": {"text_config": {**_CLIP_TEXT, "projection_size": 32}},
    "chinese_clip": {"text_config": _BLOCKS},
    "altclip": {"text_config": {**_BLOCKS, "project_dim": 24}},
    "metaclip_2": {"text_config": _CLIP_TEXT},
}
FAMILIES = [*WHOLE, *VISION, *TEXT]


def family_model(name: str) -> Any:
    """A tiny model with seeded weights, in evaluation mode."""
    import transformers as t

    torch.manual_seed(0)
    vocabulary = {"vocab_size": 5 + len(WORDS)}
    if name in WHOLE:
        config = t.AutoConfig.for_model(
            name,
            vision_config={**_BLOCKS, **_PICTURE},
            text_config={**WHOLE[name]["text_config"], **vocabulary},
            **({} if name == "siglip" else {"projection_dim": WIDTH}),
        )
        model = t.AutoModel.from_config(config)
    else:
        kind, settings = VISION.get(name, VISION["vit"])
        vision = t.AutoConfig.for_model(kind, **settings)
        kind, settings = TEXT.get(name, TEXT["bert"])
        text = t.AutoConfig.for_model(kind, **{**settings, **vocabulary})
        config = t.VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=WIDTH)
        model = t.VisionTextDualEncoderModel(config)
    with torch.no_grad():  # the library begins many of them with zeros or ones, which hide a wrong name
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def write_family(name: str, folder: Path) -> Any:
    """The model of `family_model`, saved with a tokenizer of words and an image processor; returns the model."""
    model = family_model(name)
    model.save_pretrained(folder)
    write_companions(folder)
    return model


def write_companions(folder: Path) -> None:
    """A tokenizer that knows `WORDS`, and the settings of an image processor."""
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True, "pad_token": "[PAD]"})
    )
    settings = {
        "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": SIDE},
        "do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7],
        "resample": 3,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def features(model: Any, what: Callable[..., Any], **inputs: torch.Tensor) -> torch.Tensor:
    """Unit rows of what `get_image_features` or `get_text_features` gives."""
    with torch.no_grad():
        found = what(**inputs)
    return torch.nn.functional.normalize(found if isinstance(found, torch.Tensor) else found.pooler_output, dim=-1)
