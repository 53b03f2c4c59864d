"""One model in the other library's form: OpenCLIP's CLIP of two transformers ↔ Hugging Face's `CLIPModel`.

The forms differ in names, the fused qkv matrix and transposed projections alone. A model that has no place in the other
form (ResNets, timm towers, CoCa, LayerScale, …) is refused. Before the new folder appears, both forms embed the same
pictures and texts: a conversion is equal, or it is not made.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unbackdoor.base.disk import atomic_folder
from unbackdoor.base.draws import seeded
from unbackdoor.base.errors import InputError
from unbackdoor.clip.handle import Clip
from unbackdoor.clip.load import load
from unbackdoor.weights.files import write_tensors

KINDS = ("open_clip", "hf")
# Largest difference of unit embeddings in float32: the libraries' own attention orders its sums differently.
EQUAL = 1e-5
_TEXTS = ("a photo of a dog.", "two cats, asleep!", "a", "ÜBER 9000 — emoji 🐶", "a very " * 40 + "long sentence")
_PAIRS = 49408  # tokens of OpenAI's byte pairs, the only ones that OpenCLIP brings along
State = dict[str, Tensor]

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
_LAYERS = {
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
    "transformer.resblocks.": "text_model.encoder.layers.",
}
_FUSED = ("attn.in_proj_weight", "attn.in_proj_bias")
_PARTS = ("self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj.")


class _Names:
    """Names of one form by those of the other.

    Args:
        back: from Hugging Face's to OpenCLIP's.
    """

    def __init__(self, *, back: bool = False) -> None:
        tables = [_PLAIN | _PROJECTIONS, _NORMS, _LAYERS, _BLOCK]
        if back:
            tables = [{new: old for old, new in table.items()} for table in tables]
        self._whole, self._norms, self._layers, self._blocks = tables

    def layer(self, name: str) -> tuple[str, str, str]:
        """Of a tensor in a layer: what stands before it here, and in the other form, and the rest; else nothing."""
        start = next((start for start in self._layers if name.startswith(start)), None)
        if start is None:
            return "", "", ""
        number, _, rest = name.removeprefix(start).partition(".")
        return f"{start}{number}.", f"{self._layers[start]}{number}.", rest

    def of(self, name: str) -> str:
        """What the other form calls a tensor that is one tensor there too; empty where it has none."""
        _, layer, rest = self.layer(name)
        if not layer:
            return self._whole.get(name) or _swapped(name, self._norms)
        end = _swapped(rest, self._blocks)
        return end and layer + end


def _swapped(name: str, starts: dict[str, str]) -> str:
    start = next((start for start in starts if name.startswith(start)), None)
    return "" if start is None else starts[start] + name.removeprefix(start)


def to_hf(state: State) -> State:
    """OpenCLIP's tensors under `CLIPModel`'s names; a part of a state, such as an image tower's vector, will do.

    Raises:
        InputError: a tensor that has no place there.
    """
    names, out = _Names(), State()
    for name, t in state.items():
        _, layer, rest = names.layer(name)
        if rest in _FUSED:
            kind = rest.removeprefix("attn.in_proj_")
            for part, piece in zip(_PARTS, t.chunk(3), strict=True):
                out[f"{layer}{part}{kind}"] = piece
        elif new := names.of(name):
            out[new] = t.T if name in _PROJECTIONS else t
        else:
            raise InputError(f"tensor {name} has no place in Hugging Face's CLIPModel; this model has no such form")
    return {n: t.contiguous() for n, t in out.items()}


def to_open_clip(state: State) -> State:
    """The inverse of `to_hf`.

    Raises:
        InputError: a tensor that has no place there.
    """
    names, out = _Names(back=True), State()
    for name, t in state.items():
        own, layer, rest = names.layer(name)
        if rest.startswith(_PARTS):
            kind = rest.rpartition(".")[2]
            pieces = [f"{own}{part}{kind}" for part in _PARTS]
            if any(n not in state for n in pieces):
                raise InputError(f"tensor {name} comes without the other two of its query, key and value")
            out[f"{layer}attn.in_proj_{kind}"] = torch.cat([state[n] for n in pieces])
        elif new := names.of(name):
            out[new] = t.T if new in _PROJECTIONS else t
        else:
            raise InputError(f"tensor {name} has no place in OpenCLIP's CLIP; this model has no such form")
    return {n: t.contiguous() for n, t in out.items()}


def convert(clip: Clip, kind: str, out: Path) -> dict[str, float]:
    """Write `clip` in the other form into the folder `out`, in the types it is stored in.

    Args:
        kind: `open_clip` or `hf`.
        out: a folder that is not there yet, or is empty.

    Returns:
        Largest differences of unit embeddings between the two forms, of `images` and of `texts`.

    Raises:
        InputError: the model is of that form already or has no such form; `out` is there; the embeddings differ.
    """
    if kind not in KINDS:
        raise InputError(f"--to {kind!r}: choose one of {', '.join(KINDS)}")
    if clip.kind == kind:
        raise InputError(f"{clip.reference} is of the form {kind} already")
    writer: Callable[[Clip, Path], None] = _write_hf if kind == "hf" else _write_open_clip
    gaps: dict[str, float] = {}

    def fill(folder: Path) -> None:
        writer(clip, folder)
        gaps.update(_differences(clip, load(str(folder), device=str(clip.device))))
        worst = max(gaps.values())
        if not worst <= EQUAL:
            raise InputError(
                f"{clip.reference}: not converted: embeddings differ by up to {worst:.1e} in the other form "
                f"(images {gaps['images']:.1e}, texts {gaps['texts']:.1e})"
            )

    atomic_folder(out, fill)
    return gaps


@torch.no_grad()
def _differences(one: Clip, other: Clip) -> dict[str, float]:
    images = torch.rand(4, 3, one.image_size, one.image_size, generator=seeded(0))
    larger = torch.rand(2, 3, one.image_size + 9, 2 * one.image_size, generator=seeded(1))
    pictures = [batch.to(one.device) for batch in (images, larger)]
    return {
        "images": max(float((one.encode_image(p) - other.encode_image(p)).abs().max()) for p in pictures),
        "texts": float((one.encode_text(_TEXTS) - other.encode_text(_TEXTS)).abs().max()),
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _write_hf(clip: Clip, folder: Path) -> None:
    model: Any = clip.model
    state = to_hf({n: t for n, t in clip.stored().items() if n != "attn_mask"})
    norms = [name + end for name in _NORMS.values() for end in ("weight", "bias")]
    lacking = [n for n in (*_PLAIN.values(), *norms, *_PROJECTIONS.values()) if n not in state]
    if lacking:  # such as the norm before the blocks, in a ViT of CLIPA
        raise InputError(
            f"{clip.reference}: has no tensor for {lacking[0]}, which Hugging Face's CLIPModel has; this model has no "
            "such form"
        )
    try:
        towers = {"vision": model.visual.transformer, "text": model.transformer}
        parts = {
            name: {
                "hidden_size": tower.resblocks[0].attn.embed_dim,
                "intermediate_size": tower.resblocks[0].mlp.c_fc.out_features,
                "num_hidden_layers": len(tower.resblocks),
                "num_attention_heads": tower.resblocks[0].attn.num_heads,
                "layer_norm_eps": tower.resblocks[0].ln_1.eps,
                "hidden_act": _activation(tower.resblocks[0].mlp.gelu),
                "projection_dim": model.text_projection.shape[1],
            }
            for name, tower in towers.items()
        }
        patch = model.visual.conv1.kernel_size[0]
    except AttributeError as error:
        raise InputError(f"{clip.reference}: has no form as Hugging Face's CLIPModel ({error})") from None
    length, vocabulary = model.positional_embedding.shape[0], model.token_embedding.num_embeddings
    config = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": model.text_projection.shape[1],
        "logit_scale_init_value": 2.6592,
        "vision_config": {"model_type": "clip_vision_model", "image_size": clip.image_size, "patch_size": patch}
        | parts["vision"],
        "text_config": {
            "model_type": "clip_text_model",
            "max_position_embeddings": length,
            "vocab_size": vocabulary,
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
            "pad_token_id": vocabulary - 1,
        }
        | parts["text"],
    }
    _write_json(folder / "config.json", config)
    _write_json(folder / "preprocessor_config.json", _processor(clip))
    _write_tokenizer(folder, length, vocabulary)
    write_tensors(folder / "model.safetensors", state, {"format": "pt"})


def _processor(clip: Clip) -> dict[str, Any]:
    """Settings of Hugging Face's image processor that prepares pictures as `clip` does."""
    side, squash = clip.image_size, _squashes(clip)
    return {
        "image_processor_type": "CLIPImageProcessor",
        "image_mean": list(clip.mean),
        "image_std": list(clip.std),
        "resample": 3 if clip.interpolation == "bicubic" else 2,
        "size": {"height": side, "width": side} if squash else {"shortest_edge": side},
        "do_center_crop": not squash,
        "crop_size": {"height": side, "width": side},
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
    }


def _squashes(clip: Clip) -> bool:
    """Whether pictures are made square by force, where both libraries have the way in which they are framed.

    Raises:
        InputError: they do not.
    """
    frame = clip.frame
    if frame.fit not in ("squash", "shortest") or frame.edges or frame.mode not in ("bicubic", "bilinear"):
        raise InputError(f"{clip.reference}: its pictures are framed as the other library cannot ({frame})")
    return frame.fit == "squash"


def _activation(module: torch.nn.Module) -> str:
    name = type(module).__name__
    if name == "QuickGELU":
        return "quick_gelu"
    if isinstance(module, torch.nn.GELU):
        return "gelu" if module.approximate == "none" else "gelu_new"
    raise InputError(f"the activation {name} is none of Hugging Face's CLIPModel")


def _write_tokenizer(folder: Path, length: int, vocabulary: int) -> None:
    """OpenCLIP's byte pairs in the files that transformers reads; none where the vocabulary is another."""
    import open_clip

    pairs: Any = open_clip.SimpleTokenizer(context_length=length)
    if vocabulary != len(pairs.encoder):
        return
    start, end = "<|startoftext|>", "<|endoftext|>"
    ids = {token: number for token, number in pairs.encoder.items() if number < vocabulary - 2}
    _write_json(folder / "vocab.json", {**ids, start: vocabulary - 2, end: vocabulary - 1})
    merges = "".join(f"{a} {b}\n" for a, b in pairs.bpe_ranks)
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": length,
            "do_lower_case": True,
            "bos_token": start,
            "eos_token": end,
            "pad_token": end,
            "unk_token": end,
        },
    )


def _write_open_clip(clip: Clip, folder: Path) -> None:
    state = to_open_clip({n: t for n, t in clip.stored().items() if not n.endswith("position_ids")})
    config: Any = getattr(clip.model, "config", None)
    vision, text = getattr(config, "vision_config", None), getattr(config, "text_config", None)
    if type(clip.model).__name__ != "CLIPModel" or vision is None or text is None:
        raise InputError(f"{clip.reference}: only CLIPModel has a form in OpenCLIP's CLIP")
    if text.vocab_size != _PAIRS:
        raise InputError(
            f"{clip.reference}: its text tower has {text.vocab_size} tokens, but OpenCLIP brings along OpenAI's "
            f"{_PAIRS}; this model has no such form"
        )
    _squashes(clip)
    acts = {vision.hidden_act, text.hidden_act}
    if len(acts) != 1 or not acts <= {"quick_gelu", "gelu"}:
        raise InputError(
            f"{clip.reference}: activations {', '.join(sorted(acts))}; OpenCLIP has quick_gelu or gelu, alike"
        )
    _write_json(
        folder / "open_clip_config.json",
        {
            "model_cfg": {
                "embed_dim": config.projection_dim,
                "quick_gelu": acts == {"quick_gelu"},
                "vision_cfg": {
                    "image_size": clip.image_size,
                    "layers": vision.num_hidden_layers,
                    "width": vision.hidden_size,
                    "head_width": vision.hidden_size // vision.num_attention_heads,
                    "mlp_ratio": vision.intermediate_size / vision.hidden_size,
                    "patch_size": vision.patch_size,
                },
                "text_cfg": {
                    "context_length": text.max_position_embeddings,
                    "vocab_size": text.vocab_size,
                    "width": text.hidden_size,
                    "heads": text.num_attention_heads,
                    "layers": text.num_hidden_layers,
                    "mlp_ratio": text.intermediate_size / text.hidden_size,
                },
            },
            "preprocess_cfg": {
                "mean": list(clip.mean),
                "std": list(clip.std),
                "interpolation": clip.interpolation,
                "resize_mode": clip.resize_mode,
            },
        },
    )
    write_tensors(folder / "open_clip_model.safetensors", state, {"format": "pt"})
