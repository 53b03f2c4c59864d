"""OpenCLIP models: `local-dir:` folders, and architectures by name with weights from a file or a published tag."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unbackdoor.base.disk import copy_companions, write_text
from unbackdoor.base.errors import InputError
from unbackdoor.base.notices import warn
from unbackdoor.clip import published, text_towers
from unbackdoor.clip.allowed import Sizes
from unbackdoor.clip.fitting import check_shapes, fit_state
from unbackdoor.clip.handle import Clip, Format
from unbackdoor.clip.hub import OPEN_CLIP_WEIGHTS, fetch_tokenizer
from unbackdoor.clip.library import guarded
from unbackdoor.clip.openclip_table import check_config, read_config
from unbackdoor.clip.preprocess import CLIP_MEAN, CLIP_STD, Frame, checked, checked_side
from unbackdoor.clip.skeleton import Undrawn, built, outline, probe, shapes_of
from unbackdoor.clip.tokenizers import Watch, checked_folder, guard
from unbackdoor.weights.files import read_checkpoint, read_shapes, write_tensors
from unbackdoor.weights.names import fitted, without_shared

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
# The library's own order of preference; `.pt` is ours.
_WEIGHTS_NAMES = (
    *OPEN_CLIP_WEIGHTS,
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
    "open_clip_model.pt",
)
_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
Json = dict[str, Any]
Tokenizer = Callable[[list[str]], Tensor]


@dataclass(frozen=True)
class Source:
    """What a model is made from.

    Args:
        reference: what the user named.
        config: with `model_cfg` and, where known, `preprocess_cfg`.
        what: where the configuration stands, for errors.
        folder: of a whole model, with its tokenizer's files; None for an architecture by name.
        name: the architecture's, where it has one.
        online: the user's own words reach the network, so the tokenizer's files may be fetched.
        write_tokenizer: writes the files of a tokenizer that lies in no folder.
    """

    reference: str
    config: Json
    what: str
    folder: Path | None = None
    name: str = ""
    online: bool = False
    write_tokenizer: Callable[[Path], None] | None = None


def from_folder(folder: Path, reference: str) -> Clip:
    """A folder in OpenCLIP's `local-dir:` scheme.

    Raises:
        InputError: no such folder, a configuration that is not allowed, missing files, or weights that do not fit.
    """
    if not folder.is_dir():
        raise InputError(f"{reference}: no such folder")
    path = folder / CONFIG
    if not path.exists():
        raise InputError(f"{reference}: {CONFIG} is missing")
    config = read_config(path)
    weights = _find_weights(folder, reference)
    shapes = read_shapes(weights)
    if _is_hugging_face(shapes):
        return _as_hugging_face(folder, reference, weights)
    check_config(config, str(path), Sizes.of(shapes))
    clip = _open(Source(reference, config, str(path), folder), weights, shapes)
    if set(published.MARKS) <= set(without_shared(shapes)) and not config["model_cfg"].get("quick_gelu"):
        warn(
            f"{reference}: {weights.name} carries OpenAI's marks, whose models have the activation QuickGELU, but "
            f'{CONFIG} does not say so; if they are OpenAI\'s, write "quick_gelu": true into its model_cfg'
        )
    return clip


def from_name(reference: str, checkpoint: Path | None, *, random: bool = False) -> Clip:
    """An architecture that OpenCLIP knows, `ViT-B-32` or `ViT-B-32:TAG`.

    Args:
        checkpoint: file of its weights; without one, those of the tag are fetched.
        random: random weights instead.

    Raises:
        InputError: no such architecture or tag, no weights, or weights that do not fit.
    """
    import open_clip

    plain = reference.removeprefix("random:")
    parsed = published.parse(plain)
    if parsed is None:
        raise published.unknown(plain)
    name, tag = parsed
    tag = published.check_tag(name, tag) if tag else ""
    if checkpoint is None and not tag and not random:
        known = [f"{name}:{t}" for t in published.tags(name)][:3]
        fetched = f", fetch published ones with {' or '.join(known)}" if known else ""
        raise InputError(
            f"{reference}: give its weights with --checkpoint FILE{fetched}, or write random:{name} for random ones"
        )
    online = checkpoint is None and bool(tag) and not random
    weights = None if random else checkpoint or published.fetch(name, tag)
    model_cfg: Json = open_clip.get_model_config(name)
    shapes = {} if weights is None else read_shapes(weights)
    reading = published.reading(name, tag, without_shared(shapes), weights, model_cfg)
    if reading.quick_gelu:
        model_cfg["quick_gelu"] = True
    config = {"model_cfg": model_cfg, "preprocess_cfg": reading.preprocess}
    clip = _open(Source(reference, config, name, None, name, online), weights, shapes)
    if reading.doubt:
        warn(reading.doubt)
    return clip


def _find_weights(folder: Path, reference: str) -> Path:
    named = next((folder / n for n in _WEIGHTS_NAMES if (folder / n).is_file()), None)
    if named is not None:
        return named
    others = [p for p in sorted(folder.iterdir()) if p.suffix in _SUFFIXES and p.is_file()]
    if len(others) > 1:
        raise InputError(
            f"{reference}: holds several files of weights ({others[0].name}, {others[1].name}); name one {WEIGHTS}"
        )
    if not others:
        raise InputError(f"{reference}: {WEIGHTS} is missing")
    return others[0]


def _is_hugging_face(names: Collection[str]) -> bool:
    words = {word for name in names for word in name.split(".")[:-1]}  # whatever stands before them
    return "vision_model" in words and "visual" not in words


def _as_hugging_face(folder: Path, reference: str, weights: Path) -> Clip:
    """A folder with both libraries' configurations, of which the hub holds many, and Hugging Face's weights alone."""
    if (folder / "config.json").is_file():
        from unbackdoor.clip import huggingface

        return huggingface.from_folder(folder, reference)
    raise InputError(
        f"{reference}: {weights.name} holds Hugging Face's weights, not OpenCLIP's; put their config.json beside them, "
        f"or fetch {WEIGHTS}"
    )


def _open(source: Source, weights: Path | None, shapes: Mapping[str, tuple[int, ...]]) -> Clip:
    """Compare the configuration with the weights, then build and fill the model."""
    model_cfg = source.config["model_cfg"]
    make = partial(create, model_cfg, source.what)
    if weights is None:
        return handle(built(make, source.what), source, {})
    what, skeleton = str(weights), outline(make, source.what)
    stored = fitted(
        {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, skeleton.state_dict(), what
    )
    hint = published.similar(shapes_of(stored))
    check_shapes(skeleton, shapes_of(_conform(skeleton, stored)), what, hint)
    check_towers(skeleton, model_cfg, source.what)
    with Undrawn():
        model = built(make, source.what)
    state = fitted(read_checkpoint(weights), model.state_dict(), what)
    types = fit_state(model, _conform(model, state), what, hint)
    return handle(model, source, types)


def create(model_cfg: Mapping[str, Any], what: str) -> nn.Module:
    """The module that a checked `model_cfg` describes; no tower fetches weights or a configuration of its own."""
    from open_clip import CLIP, CoCa, CustomTextCLIP

    config = copy.deepcopy(dict(model_cfg))
    vision, text = config["vision_cfg"], config["text_cfg"]
    custom = config.pop("custom_text", False) or "hf_model_name" in text
    kind = CLIP if not custom else CoCa if "multimodal_cfg" in config else CustomTextCLIP
    with ExitStack() as places:
        if vision.get("timm_model_name"):
            vision["timm_model_pretrained"] = False
        if text.get("hf_model_name"):
            tower = text_towers.text_config(text["hf_model_name"], what)
            text.update(hf_model_name=places.enter_context(text_towers.written(tower)), hf_model_pretrained=False)
        model: nn.Module = kind(**config)
    return model


def check_towers(skeleton: nn.Module, model_cfg: Mapping[str, Any], what: str) -> None:
    """Whether towers on the meta device take pictures and texts of the configured sizes, and embed both in one space.

    Raises:
        InputError: they do not.
    """
    model: Any = skeleton
    side, text = model.visual.image_size, model_cfg["text_cfg"]
    high, wide = side if isinstance(side, tuple | list) else (side, side)
    image = probe(lambda: model.encode_image(torch.empty(1, 3, high, wide)), f"{what}: no image of {high}×{wide} fits")
    length = int(text.get("context_length", 77))
    if text.get("hf_model_name"):
        most = text_towers.most_tokens(text_towers.text_config(text["hf_model_name"], what))
        if length > most:
            raise InputError(f"{what}: context_length {length} exceeds the {most} positions of {text['hf_model_name']}")
        return
    tokens = torch.zeros(1, length, dtype=torch.long, device="meta")
    words = probe(lambda: model.encode_text(tokens), f"{what}: no text of {length} tokens fits")
    if image != words:
        raise InputError(f"{what}: embeddings of images have {image[1]} numbers, those of texts {words[1]}")


def _conform(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The renamings that OpenCLIP itself makes on loading: old text-tower names, OpenAI's extras, scalar shapes."""
    from open_clip.model import convert_to_custom_text_state_dict

    own = model.state_dict()
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    dropped = (*published.MARKS, "text.transformer.embeddings.position_ids")
    state = {n: t for n, t in state.items() if n in own or n not in dropped}
    for name in ("logit_scale", "logit_bias"):
        if name in own and name in state and state[name].numel() == own[name].numel() == 1:
            state[name] = state[name].reshape(own[name].shape)
    return state


def handle(
    model: nn.Module, source: Source, types: dict[str, torch.dtype], tokenizer: Callable[[], Tokenizer] | None = None
) -> Clip:
    """The handle over a model of OpenCLIP.

    Args:
        types: of its tensors as they were stored.
        tokenizer: makes its tokenizer; by default the one that its configuration names.

    Raises:
        InputError: its preprocessing is none that is supported.
    """
    model_cfg, settings = source.config["model_cfg"], source.config.get("preprocess_cfg") or {}
    fit = settings.get("resize_mode") or "shortest"
    if fit == "longest" and settings.get("fill_color"):
        raise InputError(
            f"{source.reference}: fill_color {settings['fill_color']!r} is not supported; pictures lie on black"
        )
    size = getattr(model.visual, "image_size", None) or model_cfg["vision_cfg"]["image_size"]
    mode = "bilinear" if settings.get("interpolation") == "bilinear" else "bicubic"
    preprocess = checked(
        source.reference,
        Frame(checked_side(source.reference, size), mode, fit),
        mean=settings.get("mean") or CLIP_MEAN,
        std=settings.get("std") or CLIP_STD,
    )
    written: Json = {
        **source.config,
        "preprocess_cfg": {
            **settings,
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "interpolation": mode,
            "resize_mode": fit,
        },
    }

    def save(stored: dict[str, Tensor], target: Path) -> None:
        write_text(target / CONFIG, json.dumps(written, indent=2) + "\n")
        if source.folder is not None:  # SigLIP and Hugging Face text towers bring tokeniser files
            copy_companions(source.folder, target, but=(CONFIG,))
        if source.write_tokenizer is not None:
            source.write_tokenizer(target)
        # Last, so that a folder with weights is a whole one.
        write_tensors(target / WEIGHTS, stored, {"format": "pt"})

    tower = model_cfg["vision_cfg"].get("timm_model_name")
    architecture = source.name or str(tower or type(model.visual).__name__)
    text = _text_encoder(tokenizer or partial(_tokenizer, source), source.what)
    layout = Format("open_clip", ("visual.",), _image, text, save, f"OpenCLIP {architecture}")
    return Clip(model, source.reference, preprocess, layout, types)


def _image(model: nn.Module, images: Tensor) -> Tensor:
    rows: Tensor = model.encode_image(images)  # type: ignore[operator]
    return rows


def _text_encoder(make: Callable[[], Tokenizer], what: str) -> Callable[[nn.Module, Sequence[str]], Tensor]:
    cache: list[tuple[Tokenizer, Watch]] = []

    def text(model: nn.Module, texts: Sequence[str]) -> Tensor:
        if not cache:
            cache.append((make(), Watch(what, _vocabulary(model))))
        tokenize, watch = cache[0]
        tokens = watch(lambda: tokenize(list(texts)), len(texts), lambda output: output)
        tokens = tokens.to(next(model.parameters()).device)
        return _encode_short(model, tokens) if _is_plain_causal(model) else model.encode_text(tokens)  # type: ignore

    return text


def _vocabulary(model: Any) -> int | None:
    """How many tokens the text tower knows."""
    tower = getattr(model, "text", model)
    table = getattr(tower, "token_embedding", None)
    if table is None and hasattr(tower, "transformer"):
        table = tower.transformer.get_input_embeddings()
    return None if table is None else int(table.weight.shape[0])


def _tokenizer(source: Source) -> Tokenizer:
    """The tokenizer that a checked configuration names, from the model's folder, or for a name from the hub's cache."""
    import open_clip

    text = source.config["model_cfg"]["text_cfg"]
    settings: Json = {"context_length": int(text.get("context_length", 77)), **(text.get("tokenizer_kwargs") or {})}
    named = text.get("hf_tokenizer_name")

    def load() -> Tokenizer:
        if not named:
            plain: Tokenizer = open_clip.SimpleTokenizer(**settings)
            return plain
        if text.get("tokenizer_mode"):
            settings["tokenizer_mode"] = text["tokenizer_mode"]
        folder = source.folder or fetch_tokenizer(named, f"{source.reference}: {named}", online=source.online)
        with checked_folder(folder) as place, guarded():
            tokenizer: Tokenizer = open_clip.tokenizer.HFTokenizer(
                str(place), **settings, local_files_only=True, trust_remote_code=False
            )
        return tokenizer

    return guard(load, f"{source.reference}: its tokenizer cannot be loaded")


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
    rows: Tensor = x[torch.arange(len(x), device=x.device), ends] @ model.text_projection
    return rows
