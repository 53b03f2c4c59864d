"""Hugging Face's dual encoders: folders as the library writes them, and models in memory."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unbackdoor.base.disk import copy_companions, write_text
from unbackdoor.base.errors import InputError, first_line
from unbackdoor.base.notices import warn
from unbackdoor.base.untrusted import parse_json, read_text
from unbackdoor.clip.allowed import Sizes
from unbackdoor.clip.fitting import check_shapes, fit_state
from unbackdoor.clip.handle import Clip, Format
from unbackdoor.clip.huggingface_files import WEIGHTS, cleared, find_weights, write_weights
from unbackdoor.clip.huggingface_table import FAMILIES, Listed, check_work, image_tower, listed, longest_text
from unbackdoor.clip.library import guarded
from unbackdoor.clip.preprocess import Preprocess
from unbackdoor.clip.processor import preprocess, read_settings
from unbackdoor.clip.renaming import Names, library_names, names_of
from unbackdoor.clip.skeleton import Undrawn, built, outline
from unbackdoor.clip.tokenizers import Watch, has_tokenizer, load_tokenizer

_CONFIG, _MEMORY = "config.json", "a model in memory"
Encode = Callable[[list[str]], dict[str, Tensor]]


def from_folder(folder: Path, reference: str) -> Clip:
    """A folder with `config.json` and weights; nothing is fetched, and nothing of the folder is run.

    Raises:
        InputError: no transformers; another model than a dual encoder of pictures of one size; settings that are not
            allowed; weights that are not there, or do not fit.
    """
    try:
        import transformers  # noqa: F401
    except ImportError:
        raise InputError(f"{reference}: Hugging Face models need transformers; install unbackdoor[hf]") from None
    what, text = str(folder / _CONFIG), read_text(folder / _CONFIG)
    config = parse_json(text, what)
    if not isinstance(config, dict):
        raise InputError(f"{what}: holds no JSON object")
    weights = find_weights(folder, reference)
    chosen = listed(config, what, Sizes.of(weights.shapes))

    def create() -> nn.Module:
        return _create(chosen)

    skeleton = outline(create, what)
    idle = chosen.family.idle
    names, own = names_of(skeleton, weights.shapes, str(folder), idle), set(skeleton.state_dict())
    if not own.issuperset(n for targets in names.places.values() for n in targets):
        weights = cleared(weights, own | set(library_names(skeleton)), str(folder))
        names = names_of(skeleton, weights.shapes, str(folder), idle)
    check_shapes(skeleton, names.shapes(weights.shapes), str(folder))
    step = _preprocess(str(folder), read_settings(folder), chosen, skeleton)
    with Undrawn():
        model = built(create, what).eval()
    stored = weights.read()
    types = fit_state(model, names.inside(stored), str(folder))
    _check_takes(model, step.size, what)
    extra = {name: stored[name] for name in names.extra}

    def save(state: dict[str, Tensor], target: Path) -> None:
        copy_companions(folder, target, but=(_CONFIG,))
        write_text(target / _CONFIG, text)
        write_weights({**names.outside(state), **extra}, weights.files, target)

    encode = _text_encoder(lambda: _tokenizer(folder, chosen, model), _rows(model), str(folder))
    return Clip(model, reference, step, _format(chosen, names, encode, save), types)


def is_hugging_face(model: nn.Module) -> bool:
    """Whether a module is one of the library's dual encoders."""
    names = {family.architecture for family in FAMILIES.values()}
    return type(model).__module__.startswith("transformers.") and type(model).__name__ in names


def from_object(model: nn.Module, tokenizer: Any = None, processor: Any = None) -> Clip:
    """The handle over a copy of a model that is in memory, on the CPU and in float32.

    Args:
        tokenizer: the library's; may be left out for models of CLIP's vocabulary. A processor will do for both.
        processor: of images, or of both; without one pictures are taken as the architecture usually takes them.

    Raises:
        InputError: a model that is opened from no folder either, or whose weights are not plain numbers.
    """
    processor = tokenizer if processor is None and hasattr(tokenizer, "image_processor") else processor
    tokenizer = getattr(tokenizer if tokenizer is not None else processor, "tokenizer", tokenizer)
    images = getattr(processor, "image_processor", processor)
    packed = [n for n, p in model.named_parameters() if not p.is_floating_point() or p.is_meta]
    if packed:
        raise InputError(f"{_MEMORY}: {packed[0]} is no plain floating-point tensor; load the model without quantising")
    types = {name: t.dtype for name, t in model.state_dict().items()}
    whole: Any = copy.deepcopy(model).float().cpu().requires_grad_(True).eval()
    whole.config.architectures = [type(model).__name__]
    text = whole.config.to_json_string()
    chosen = listed(parse_json(text, _MEMORY), _MEMORY)
    settings = None if images is None else parse_json(images.to_json_string(), _MEMORY)
    step = _preprocess(_MEMORY, settings, chosen, whole)
    _check_takes(whole, step.size, _MEMORY)
    names = names_of(whole, library_names(whole), _MEMORY)

    def save(state: dict[str, Tensor], target: Path) -> None:
        with tempfile.TemporaryDirectory() as place:
            for part in (tokenizer, images):
                if part is not None:
                    part.save_pretrained(place)
            copy_companions(Path(place), target, but=(_CONFIG,))
        write_text(target / _CONFIG, text)
        stored = names.outside(state)
        write_weights(stored, dict.fromkeys(stored, WEIGHTS), target)

    def open_tokenizer() -> Encode:
        length = longest_text(chosen.text, whole.config.text_config)
        if tokenizer is not None:
            return _encoding(tokenizer, length, padded=chosen.family.padded)
        return _byte_pairs_of(chosen, whole, length, f"{_MEMORY}: no tokenizer was given; give the model's own")

    encode = _text_encoder(open_tokenizer, _rows(whole), _MEMORY)
    return Clip(whole, _MEMORY, step, _format(chosen, names, encode, save), types)


def _format(
    chosen: Listed,
    names: Names,
    encode: Callable[[nn.Module, Sequence[str]], Tensor],
    save: Callable[[dict[str, Tensor], Path], None],
) -> Format:
    architecture = chosen.family.architecture
    return Format("hf", chosen.family.image_prefixes, _image, encode, save, f"Hugging Face {architecture}", names)


def _create(chosen: Listed) -> nn.Module:
    import transformers

    model_class = getattr(transformers, chosen.family.architecture)
    # Some versions take out of the dictionary what they have read.
    model: nn.Module = model_class(model_class.config_class.from_dict(copy.deepcopy(chosen.config))).float()
    for path in chosen.family.idle:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, None)
    return model


def _preprocess(what: str, settings: dict[str, Any] | None, chosen: Listed, model: Any) -> Preprocess:
    tower = image_tower(chosen.vision, model.config.vision_config, what)
    step = preprocess(what, settings or {}, tower, white=_puts_on_white())
    check_work(chosen.vision, model.config.vision_config, step.size, what)
    if settings is None:
        warn(
            f"{what}: no preprocessor_config.json; pictures are taken as {chosen.vision} usually takes them, at "
            f"{tower.side} pixels"
        )
    return step


def _check_takes(model: Any, side: int, what: str) -> None:
    """Whether both towers give one row of numbers for each input, of one width.

    Not tried on the meta device, where it would cost nothing: BEiT keeps what it computes there for later models.
    """
    ids = torch.zeros(1, 2, dtype=torch.long)
    try:
        with torch.no_grad():
            rows = [_image(model, torch.zeros(1, 3, side, side)), model.get_text_features(input_ids=ids).pooler_output]
        shapes = [tuple(row.shape) for row in rows]
    except Exception as error:  # a configuration that can be built can still be none that works
        raise InputError(
            f"{what}: its towers take no picture of {side} pixels or no text ({type(error).__name__}: "
            f"{first_line(error)})"
        ) from None
    if shapes[0] != shapes[1] or len(shapes[0]) != 2:
        raise InputError(f"{what}: its towers give vectors of different shapes, {shapes[0]} and {shapes[1]}")


def _puts_on_white() -> bool:
    """Whether the library that is installed puts transparent pictures on white: a transparent pixel tells."""
    from PIL import Image
    from transformers.image_transforms import convert_to_rgb

    with guarded():
        pixel = convert_to_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 0)))
    return bool(pixel.getpixel((0, 0)) == (255, 255, 255))


def _image(model: nn.Module, images: Tensor) -> Tensor:
    rows: Tensor = model.get_image_features(pixel_values=images).pooler_output  # type: ignore[operator]
    return rows


def _rows(model: Any) -> int:
    """Tokens that the text tower has."""
    return int(model.config.text_config.vocab_size)


def _text_encoder(
    open_tokenizer: Callable[[], Encode], rows: int, what: str
) -> Callable[[nn.Module, Sequence[str]], Tensor]:
    cache: list[Encode] = []
    watch = Watch(what, rows)

    def text(model: nn.Module, texts: Sequence[str]) -> Tensor:
        if not cache:
            cache.append(open_tokenizer())
        encoded = watch(lambda: cache[0](list(texts)), len(texts), lambda output: output["input_ids"])
        device = next(model.parameters()).device
        inputs = {k: v.to(device) for k, v in encoded.items()}
        output: Tensor = model.get_text_features(**inputs).pooler_output  # type: ignore[operator]
        return output

    return text


def _tokenizer(folder: Path, chosen: Listed, model: Any) -> Encode:
    length = longest_text(chosen.text, model.config.text_config)
    if has_tokenizer(folder):
        return _encoding(load_tokenizer(folder), length, padded=chosen.family.padded)
    return _byte_pairs_of(
        chosen, model, length, f"{folder}: no tokenizer files, so no text can be encoded; add tokenizer.json"
    )


def _encoding(tokenizer: Any, length: int, *, padded: bool) -> Encode:
    def encode(texts: list[str]) -> dict[str, Tensor]:
        padding = "max_length" if padded else "longest"
        inputs = tokenizer(texts, padding=padding, truncation=True, max_length=length, return_tensors="pt")
        return {k: inputs[k] for k in (("input_ids",) if padded else ("input_ids", "attention_mask"))}

    return encode


def _byte_pairs_of(chosen: Listed, model: Any, length: int, otherwise: str) -> Encode:
    """OpenAI's own tokens, which every CLIP of this vocabulary reads.

    Raises:
        InputError: `otherwise`, where the vocabulary is another.
    """
    if chosen.text != "clip_text_model" or _rows(model) != 49408:
        raise InputError(otherwise)
    import open_clip

    plain = open_clip.SimpleTokenizer(context_length=length)

    def encode(texts: list[str]) -> dict[str, Tensor]:
        ids = plain(texts)
        ends = ids.argmax(dim=1)
        ids = ids[:, : int(ends.max()) + 1]
        mask = torch.arange(ids.shape[1]) <= ends[:, None]
        return {"input_ids": ids, "attention_mask": mask.long()}

    return encode
