"""The families: one row of the matrix each, shrunken and in full size.

A shrunken OpenCLIP model is a published configuration with everything that makes it large taken down, so that what
makes it of its family (poolings, norms, activations, masks) stays; the same is done to its timm trunk.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.clip import families as tiny
from tests.towers.folders import HUGGING_FACE, OPEN_CLIP, WORDS, write_hugging_face, write_open_clip
from unbackdoor.clip import text_towers

Json = dict[str, Any]
SIDE = 32


@dataclass(frozen=True)
class Tower:
    """A row.

    Args:
        name: of the family, for people.
        library: whose form the folder has.
        example: a published model or configuration of the family; its size is the full one.
        write: (folder, full) → None.
        text_tower: name and configuration of a shrunken text tower that OpenCLIP builds by name.
        closed: it is no pair of towers of fixed size, and is refused at opening.
    """

    name: str
    library: str
    example: str
    write: Callable[[Path, bool], None]
    text_tower: tuple[str, Json | None] = ("", None)
    closed: bool = False


# --- OpenCLIP --------------------------------------------------------------------------------------------------------

_VIT = {"img_size": SIDE, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2}
_SMALL_TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


@dataclass(frozen=True)
class Trunk:
    """A timm trunk and how it is made small.

    Args:
        name: of the architecture in timm.
        smaller: arguments of its constructor.
        side: of the pictures that the small one takes.
    """

    name: str
    smaller: Mapping[str, Any] = field(default_factory=lambda: _VIT)
    side: int = SIDE

    def registered(self) -> str:
        """Name of the small one, which timm knows from now on."""
        import timm
        from timm.models import register_model

        name = f"small_{self.name}"
        if not timm.is_model(name):

            def make(pretrained: bool = False, **given: Any) -> torch.nn.Module:
                return timm.create_model(self.name, pretrained=False, **{**given, **self.smaller})

            make.__name__ = name
            make.__module__ = "timm.models.vision_transformer"  # where timm keeps its list of what may be made
            register_model(make)
        return name


def _bert() -> Json:
    return text_towers._bert(WORDS, **_SMALL_TEXT)


def _roberta(kind: str) -> Json:
    return text_towers._roberta(kind, WORDS, **_SMALL_TEXT)


def _mt5() -> Json:
    return {**text_towers._mt5(32, 64, 2, 2), "vocab_size": WORDS, "d_kv": 16}


def _nllb() -> Json:
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    # Its tokenizer has a token for each of two hundred languages besides.
    return {**text_towers._nllb(2, 64), "vocab_size": 512, "d_model": 32, **heads}


def published(example: str, trunk: Trunk | None = None) -> Json:
    """The configuration of a model that OpenCLIP knows; with a trunk that it lists none of, one like its own."""
    import open_clip

    if example in open_clip.list_models():
        found: Json = open_clip.get_model_config(example)
        return found
    if example == "BiomedCLIP":
        name = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
        text: Json = {"hf_model_name": name, "hf_tokenizer_name": name, "hf_proj_type": "mlp"}
        text |= {"hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": 256}
        vision: Json = {"timm_model_name": "vit_base_patch16_224", "timm_pool": "", "timm_proj": "linear"}
        return {"embed_dim": 512, "vision_cfg": {**vision, "image_size": 224}, "text_cfg": text}
    assert trunk is not None, example
    config = open_clip.get_model_config("convnext_tiny")
    config["vision_cfg"] |= {"timm_model_name": trunk.name, "timm_pool": "avg", "timm_drop_path": None}
    return config


def shrunk(config: Json, trunk: Trunk | None, text_tower: str) -> Json:
    """The configuration with small numbers for large ones."""
    config = copy.deepcopy(config)
    vision, text = config["vision_cfg"], config["text_cfg"]
    config["embed_dim"] = 32
    if trunk is not None:
        vision |= {"timm_model_name": trunk.registered(), "image_size": trunk.side}
        if vision.get("timm_proj") == "none":
            config["embed_dim"] = trunk.smaller["embed_dim"]
    elif isinstance(vision["layers"], list):
        vision |= {"layers": [1, 1, 1, 1], "width": 8, "image_size": SIDE}
    else:
        vision |= {"layers": 2, "width": 64, "head_width": 32, "patch_size": 8, "image_size": SIDE}
        if vision.get("attentional_pool"):
            vision |= {"attn_pooler_heads": 2, "attn_pooler_queries": 8}
    if "hf_model_name" in text:
        text |= {"hf_model_name": text_tower, "context_length": 16}
    else:
        text |= {"heads": 2, "layers": 2, "context_length": min(24, text["context_length"])}
        if text.get("hf_tokenizer_name"):
            text["vocab_size"] = WORDS
    text["width"] = 32
    if "multimodal_cfg" in config:
        config["multimodal_cfg"] |= {"width": 32, "heads": 2, "layers": 2, "attn_pooler_heads": 2}
        config["multimodal_cfg"]["context_length"] = text["context_length"]
    return config


def _open_clip(
    name: str,
    example: str,
    trunk: Trunk | None = None,
    tokenizer: str = "",
    text_tower: Callable[[], Json] | None = None,
) -> Tower:
    known = f"towers/{tokenizer}" if text_tower else ""

    def write(folder: Path, full: bool) -> None:
        config = published(example, trunk)
        write_open_clip(folder, config if full else shrunk(config, trunk, known), tokenizer)

    return Tower(name, OPEN_CLIP, example, write, (known, text_tower() if text_tower else None))


_CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 48)}
_FAST = {"layers": (1, 1, 1, 1), "embed_dims": (64, 64, 64, 64)}
_HYBRID = {"img_size": SIDE, "depth": 2}
_SWIN = {"img_size": SIDE, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 2), "window_size": 4}
_OPEN_CLIP = [
    _open_clip("ViT", "ViT-B-32"),
    _open_clip("ViT with QuickGELU", "ViT-B-32-quickgelu"),
    _open_clip("ModifiedResNet", "RN50"),
    _open_clip("ViT of CLIPA, BERT's tokens", "ViT-L-14-CLIPA", tokenizer="bert"),
    _open_clip("CoCa", "coca_ViT-B-32"),
    _open_clip("ConvNeXt", "convnext_base", Trunk("convnext_base", _CONVNEXT)),
    _open_clip("EVA-01", "EVA01-g-14", Trunk("eva_giant_patch14_224")),
    _open_clip("EVA-02", "EVA02-B-16", Trunk("eva02_base_patch16_clip_224")),
    _open_clip("SigLIP", "ViT-B-16-SigLIP", Trunk("vit_base_patch16_siglip_224"), "t5"),
    _open_clip("SigLIP 2", "ViT-B-16-SigLIP2", Trunk("vit_base_patch16_siglip_224"), "gemma"),
    _open_clip("MobileCLIP", "MobileCLIP-S1", Trunk("fastvit_mci1", _FAST, 64)),
    _open_clip("MobileCLIP, hybrid ViT", "MobileCLIP-B", Trunk("vit_base_mci_224", _HYBRID)),
    _open_clip("MobileCLIP 2", "MobileCLIP2-S0", Trunk("fastvit_mci0", _FAST, 64)),
    _open_clip("ViTamin", "ViTamin-S", Trunk("vitamin_small_224", {"img_size": 64, "depth": 2}, 64)),
    _open_clip("Perception Encoder", "PE-Core-B-16", Trunk("vit_pe_core_base_patch16_224")),
    _open_clip("timm Swin", "swin_base_patch4_window7_224", Trunk("swin_base_patch4_window7_224", _SWIN)),
    _open_clip("timm ViT, relative positions", "vit_relpos_medium_patch16_cls_224",
               Trunk("vit_relpos_medium_patch16_cls_224")),
    _open_clip("timm ViT, average pooling", "vit_medium_patch16_gap_256", Trunk("vit_medium_patch16_gap_256")),
    _open_clip("timm ResNet", "resnet50", Trunk("resnet50", {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 32)})),
    _open_clip("timm EfficientNet", "efficientnet_b0", Trunk("efficientnet_b0", {})),
    _open_clip("timm MaxViT", "maxvit_tiny_tf_224", Trunk("test_maxvit", {}, 160)),
    _open_clip("timm NFNet", "nfnet_f0", Trunk("test_nfnet", {}, 160)),
    _open_clip("timm DINOv3", "vit_small_patch16_dinov3", Trunk("vit_small_patch16_dinov3")),
    _open_clip("text tower RoBERTa", "roberta-ViT-B-32", None, "roberta", partial(_roberta, "roberta")),
    _open_clip("text tower XLM-R", "xlm-roberta-base-ViT-B-32", None, "xlm-roberta",
               partial(_roberta, "xlm-roberta")),
    _open_clip("text tower mT5", "mt5-base-ViT-B-32", None, "t5", _mt5),
    _open_clip("text tower NLLB", "nllb-clip-base", None, "nllb", _nllb),
    _open_clip("text tower NLLB, SigLIP", "nllb-clip-base-siglip", Trunk("vit_base_patch16_siglip_384"), "nllb", _nllb),
    _open_clip("text tower BERT", "BiomedCLIP", Trunk("vit_base_patch16_224"), "bert", _bert),
    _open_clip("CoCa, text tower RoBERTa", "coca_roberta-ViT-B-32", None, "roberta", partial(_roberta, "roberta")),
]  # fmt: skip


# --- transformers ----------------------------------------------------------------------------------------------------

# Of the text towers; what is not here takes BERT's.
_TOKENIZERS = {
    "clip": "pairs", "siglip": "t5", "altclip": "xlm-roberta", "metaclip_2": "xlm-roberta",
    "roberta": "roberta", "xlm-roberta": "xlm-roberta", "camembert": "xlm-roberta", "clip-text": "clip",
}  # fmt: skip
_PROCESSORS = {
    "chinese_clip": "ChineseCLIP", "siglip": "Siglip", "siglip-vision": "Siglip",
    "clip": "CLIP", "altclip": "CLIP", "metaclip_2": "CLIP", "clip-vision": "CLIP", "deit": "DeiT", "beit": "Beit",
    "dinov2": "Bit", "dinov2-registers": "Bit", "dinov2-gated": "Bit", "convnext": "ConvNext",
    "convnextv2": "ConvNext",
}  # fmt: skip


def _config(family: str, full: bool, act: str) -> Any:
    import transformers as t

    vocabulary = {} if full else {"vocab_size": WORDS}
    if family == "clip" and not full:  # with all of OpenAI's tokens, as OpenCLIP knows no others
        own = {**tiny._BLOCKS, "max_position_embeddings": 16, "hidden_act": act}
        vision = {**tiny._BLOCKS, **tiny._PICTURE, "hidden_act": act}
        return t.CLIPConfig(vision_config=vision, text_config=own, projection_dim=tiny.WIDTH)
    if family in tiny.WHOLE:
        text: Json = {} if full else {**tiny.WHOLE[family]["text_config"], **vocabulary}
        vision: Json = {} if full else {**tiny._BLOCKS, **tiny._PICTURE}
        width = {} if full or family == "siglip" else {"projection_dim": tiny.WIDTH}
        return t.AutoConfig.for_model(family, vision_config=vision, text_config=text, **width)
    parts = [(tiny.VISION.get(family, tiny.VISION["vit"]), {}), (tiny.TEXT.get(family, tiny.TEXT["bert"]), vocabulary)]
    towers = [t.AutoConfig.for_model(kind, **({} if full else {**small, **more})) for (kind, small), more in parts]
    width = {"projection_dim": 512 if full else tiny.WIDTH}
    return t.VisionTextDualEncoderConfig.from_vision_text_configs(*towers, **width)


def _other(name: str, example: str, kind: str) -> Tower:
    """A model of two towers and more, as transformers saves it; not one that is opened here."""

    def write(folder: Path, full: bool) -> None:
        import transformers as t

        small: Json = {"vision_config": {**tiny._BLOCKS, **tiny._PICTURE}, "text_config": {**tiny._CLIP_TEXT}}
        torch.manual_seed(0)
        model = t.AutoModel.from_config(t.AutoConfig.for_model(kind, **({} if full else small)))
        write_hugging_face(folder, model, "clip", "CLIP", SIDE)

    return Tower(name, HUGGING_FACE, example, write, closed=True)


def _hugging_face(name: str, example: str, family: str, tokenizer: str = "", act: str = "quick_gelu") -> Tower:
    """Args: family: of `tests.clip.families`; act: activation of CLIP."""

    def write(folder: Path, full: bool) -> None:
        import transformers as t

        torch.manual_seed(0)
        config = _config(family, full, act)
        dual = config.model_type == "vision-text-dual-encoder"
        model = t.VisionTextDualEncoderModel(config) if dual else t.AutoModel.from_config(config)
        side = getattr(config.vision_config, "image_size", None) or 224
        kinds = tokenizer or _TOKENIZERS.get(family, "bert"), _PROCESSORS.get(family, "ViT")
        write_hugging_face(folder, model, *kinds, side)

    return Tower(name, HUGGING_FACE, example, write)


_WHOLE = [
    _hugging_face("CLIP, MetaCLIP", "openai/clip-vit-base-patch32", "clip"),
    _hugging_face("CLIP with GELU", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "clip", act="gelu"),
    _hugging_face("MetaCLIP 2", "facebook/metaclip-2-worldwide-b32", "metaclip_2"),
    _hugging_face("SigLIP", "google/siglip-base-patch16-224", "siglip"),
    _hugging_face("SigLIP 2, fixed size", "google/siglip2-base-patch16-224", "siglip", "gemma"),
    _hugging_face("Chinese CLIP", "OFA-Sys/chinese-clip-vit-base-patch16", "chinese_clip"),
    _hugging_face("AltCLIP", "BAAI/AltCLIP", "altclip"),
]
_DUAL = [
    _hugging_face(f"dual encoder: {title}", example, family)
    for family, title, example in (
        ("vit", "ViT", "vit-base + bert-base"),
        ("deit", "DeiT", "deit-base + bert-base"),
        ("beit", "BEiT", "beit-base + bert-base"),
        ("dinov2", "DINOv2", "dinov2-base + bert-base"),
        ("dinov2-registers", "DINOv2 with registers", "dinov2-with-registers-base + bert-base"),
        ("swin", "Swin", "swin-tiny + bert-base"),
        ("swinv2", "Swin v2", "swinv2-tiny + bert-base"),
        ("convnext", "ConvNeXt", "convnext-tiny + bert-base"),
        ("convnextv2", "ConvNeXt v2", "convnextv2-tiny + bert-base"),
        ("clip-vision", "CLIP vision", "clip-vit-base-patch32 + bert-base"),
        ("siglip-vision", "SigLIP vision", "siglip-base-patch16-224 + bert-base"),
        ("roberta", "ViT, RoBERTa", "vit-base + roberta-base"),
        ("xlm-roberta", "ViT, XLM-R", "vit-base + xlm-roberta-base"),
        ("camembert", "ViT, CamemBERT", "vit-base + camembert-base"),
        ("mpnet", "ViT, MPNet", "vit-base + mpnet-base"),
        ("albert", "ViT, ALBERT", "vit-base + albert-base"),
        ("clip-text", "ViT, CLIP text", "vit-base + clip-vit-base-patch32"),
    )
]
_OTHERS = [
    _other("SigLIP 2, any aspect", "google/siglip2-base-patch16-naflex", "siglip2"),
    _other("CLIPSeg", "CIDAS/clipseg-rd64-refined", "clipseg"),
    _other("OWL-ViT", "google/owlvit-base-patch32", "owlvit"),
    _other("GroupViT", "nvidia/groupvit-gcc-yfcc", "groupvit"),
]
TOWERS: tuple[Tower, ...] = (*_OPEN_CLIP, *_WHOLE, *_DUAL, *_OTHERS)
# Those that the page shows in full size.
FULL_SIZE = (
    "OpenCLIP: ViT",
    "OpenCLIP: ModifiedResNet",
    "OpenCLIP: SigLIP",
    "transformers: CLIP, MetaCLIP",
    "transformers: dual encoder: DINOv2",
)


def key(tower: Tower) -> str:
    """What `--only` and the journal call a row."""
    return f"{tower.library}: {tower.name}"
