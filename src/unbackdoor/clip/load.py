"""From a model reference to a `Clip`.

References: `embedded`; `ViT-B-32` and other OpenCLIP names with a checkpoint file; `ViT-B-32:laion2b_s34b_b79k`, the
weights published under a tag, fetched or from a checkpoint file; `random:ViT-B-32` (random weights); `hf-hub:org/name`
and `local-dir:PATH` (OpenCLIP's own schemes); a Hugging Face folder with `config.json`; an output folder of `poison` or
`unlearn`; a difference file of a zoo (`clip.difference`); `adapter:FOLDER` or `adapter:FOLDER@REFERENCE`, a LoRA in
PEFT's format merged into its base, or into the model that is named. Or the library's model itself, in memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unbackdoor.base.devices import pick_device
from unbackdoor.base.errors import InputError
from unbackdoor.base.registry import Registry
from unbackdoor.base.untrusted import is_there
from unbackdoor.clip import published
from unbackdoor.clip.handle import Clip
from unbackdoor.clip.library import guarded, undisturbed

EMBEDDED = Path(__file__).parent.parent / "assets" / "embedded"
Loader = Callable[[str, str], Clip]  # (what follows the colon, the whole reference) → its model
LOADERS: Registry[Loader] = Registry(
    "scheme of models",
    {
        "local-dir": ("unbackdoor.clip.load:local_dir", "OpenCLIP's folder"),
        "hf-hub": ("unbackdoor.clip.load:hf_hub", "a model of the Hub, fetched"),
        "random": ("unbackdoor.clip.load:random_weights", "an OpenCLIP architecture with random weights"),
        "adapter": ("unbackdoor.clip.load:with_adapter", "a LoRA in PEFT's format, merged into its base"),
    },
    "unbackdoor.loaders",
)


def load(
    reference: str | os.PathLike[str] | nn.Module,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    device: str = "auto",
    tokenizer: Any = None,
    processor: Any = None,
) -> Clip:
    """Open a model. Generators of random numbers, loggers and other things that all code shares stay as they are.

    Args:
        reference: see the module's first lines; only `hf-hub:` and a tag without a checkpoint touch the network. A
            module of OpenCLIP or transformers is copied, and itself left alone.
        checkpoint: weights for an OpenCLIP architecture name: safetensors, or a torch file of plain tensors.
        device: auto, cpu, cuda, mps, …
        tokenizer: for a module: its tokenizer; for one of transformers its processor will do.
        processor: for a module of transformers: its image processor, or its processor of both.

    Raises:
        InputError: unknown reference, missing or corrupt files, weights that do not fit or are not finite, or a
            checkpoint beside a reference that brings its own weights.
    """
    where = pick_device(device)
    if isinstance(reference, nn.Module):
        with guarded(), undisturbed():
            clip = _in_memory(reference, tokenizer, processor)
        name = clip.reference
    else:
        name = os.fspath(reference)
        with guarded(online=name.startswith("hf-hub:")), undisturbed(draws=name.startswith("random:")):
            clip = _open(name, None if checkpoint is None else Path(checkpoint))
    for key, tensor in clip.state().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{name}: tensor {key} holds NaN or infinite values; the checkpoint is damaged")
    clip.model.eval()
    return clip.to(where)


def offline(reference: str, what: str, remedy: str = "name the model yourself") -> str:
    """A reference that stands in a file, and not in the user's own words: it may name what lies on this machine alone.

    Args:
        what: the file or the field that names it, for the error.
        remedy: what the user may do instead.

    Raises:
        InputError: it names something else; a hub, a tag, a share on the network.
    """
    places = [reference]
    if reference.startswith("adapter:"):
        adapter, at, base = reference.removeprefix("adapter:").partition("@")
        places = [adapter, base] if at else [adapter]
    if not all(place == "embedded" or _lies_here(place.removeprefix("local-dir:")) for place in places):
        raise InputError(
            f"{what} names the model {reference[:200]!r}, which does not lie on this machine; what stands in a file is "
            f"not fetched, so {remedy}"
        )
    return reference


def _in_memory(model: nn.Module, tokenizer: Any, processor: Any) -> Clip:
    from unbackdoor.clip import huggingface, openclip_object

    inner: Any = model
    while (wrapped := getattr(inner, "_orig_mod", None) or _parallel(inner)) is not None:
        inner = wrapped
    if openclip_object.is_open_clip(inner):
        return openclip_object.from_object(inner, tokenizer)
    if huggingface.is_hugging_face(inner):
        return huggingface.from_object(inner, tokenizer, processor)
    raise InputError(f"a {type(inner).__name__} is no model that can be opened; give one of OpenCLIP or transformers")


def _parallel(model: nn.Module) -> nn.Module | None:
    kinds = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return model.module if isinstance(model, kinds) else None


def _open(reference: str, checkpoint: Path | None) -> Clip:
    from unbackdoor.clip import openclip

    if not reference:
        raise InputError("no model named; give --model REFERENCE, for example embedded")
    path, (scheme, colon, rest) = Path(reference), reference.partition(":")
    schemed = bool(colon) and scheme in LOADERS
    whole = reference == "embedded" or schemed or published.is_folder(path)
    if checkpoint is not None and whole:
        raise InputError(
            f"{reference} brings its own weights; leave --checkpoint {checkpoint} out, or name its architecture"
        )
    if reference == "embedded":
        return openclip.from_folder(EMBEDDED, "embedded")
    if schemed:
        clip = LOADERS.get(scheme)(rest, reference)
        if not isinstance(clip, Clip):
            raise InputError(f"scheme of models {scheme[:60]!r} ({LOADERS.about(scheme)}) returns no Clip")
        return clip
    if published.is_folder(path):
        return _from_folder(path, reference)
    if published.parse(reference) is not None:
        return openclip.from_name(reference, checkpoint)
    if checkpoint is None and path.suffix == ".safetensors" and path.is_file():
        from unbackdoor.clip.difference import from_file

        return from_file(path, lambda base: _open(offline(base, str(path)), None))
    raise published.unknown(reference)


def local_dir(rest: str, reference: str) -> Clip:
    """OpenCLIP's `local-dir:PATH`."""
    from unbackdoor.clip import openclip

    return openclip.from_folder(Path(rest), reference)


def hf_hub(rest: str, reference: str) -> Clip:
    """`hf-hub:org/name`, the one that touches the network."""
    from unbackdoor.clip.hub import fetch_model

    return _from_folder(fetch_model(rest, reference), reference)


def random_weights(rest: str, reference: str) -> Clip:
    """`random:ARCHITECTURE`."""
    from unbackdoor.clip import openclip

    return openclip.from_name(reference, None, random=True)


def _lies_here(place: str) -> bool:
    """Whether a path names a folder here, or a file of differences; no scheme, and no share on the network (`//…`)."""
    if not place or place.startswith(("\\\\", "//", *(f"{scheme}:" for scheme in LOADERS.names()))):
        return False
    return published.is_folder(place) or (place.endswith(".safetensors") and is_there(Path(place)))


def _from_folder(path: Path, reference: str) -> Clip:
    """A folder in either library's format, or an output folder that holds one."""
    from unbackdoor.clip import huggingface, openclip

    for folder in (path / "model", path):
        if (folder / openclip.CONFIG).is_file():
            return openclip.from_folder(folder, reference)
        if (folder / "config.json").is_file():
            return huggingface.from_folder(folder, reference)
    raise InputError(f"{reference}: the folder holds neither {openclip.CONFIG} nor config.json")


def with_adapter(rest: str, reference: str) -> Clip:
    """`adapter:FOLDER`, or `adapter:FOLDER@REFERENCE` merged into the model that is named."""
    from unbackdoor.weights.adapters import read_adapter, read_config
    from unbackdoor.weights.vector import add_

    place, _, named = rest.partition("@")
    folder = Path(place)
    base = named or (read_config(folder).base_model_name_or_path or "")
    if not named and not _lies_here(base):
        raise InputError(f"{reference}: its base {base[:200]!r} is no folder here; name it: adapter:{place}@REFERENCE")
    clip = _open(base, None)
    state, names = clip.state(), clip.format.names
    both = state | {name: state[place] for name, place in names.aliases.items()}
    try:
        add_(state, names.translated(read_adapter(folder, both)), 1.0)
    except InputError as error:
        raise InputError(f"{reference} on {base}: {error}") from None
    clip.reference = reference
    return clip
