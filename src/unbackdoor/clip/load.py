"""From a model reference to a `Clip`.

References: `embedded`; `ViT-B-32` and other OpenCLIP names with a checkpoint file; `random:ViT-B-32` (random weights);
`hf-hub:org/name` and `local-dir:PATH` (OpenCLIP's own schemes); a Hugging Face folder with `config.json`; an output
folder of `poison` or `unlearn`; a difference file of a zoo (`clip.difference`); `adapter:FOLDER` or
`adapter:FOLDER@REFERENCE`, a LoRA in PEFT's format merged into its base, or into the model that is named.
"""

from __future__ import annotations

from pathlib import Path

import torch

from unbackdoor.clip.handle import Clip
from unbackdoor.clip.library import guarded
from unbackdoor.devices import pick_device
from unbackdoor.errors import InputError

EMBEDDED = Path(__file__).parent.parent / "assets" / "embedded"


def load(reference: str, *, checkpoint: Path | None = None, device: str = "auto") -> Clip:
    """Open a model.

    Args:
        reference: see the module's first lines. Only `hf-hub:` touches the network.
        checkpoint: weights for an OpenCLIP architecture name: safetensors, or a torch file of plain tensors.
        device: auto, cpu, cuda, mps, …

    Raises:
        InputError: unknown reference, missing or corrupt files, weights that do not fit or are not finite, or a
            checkpoint beside a reference that brings its own weights.
    """
    where = pick_device(device)
    with guarded(online=reference.startswith("hf-hub:")):
        clip = _open(reference, checkpoint)
    for name, tensor in clip.state().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{reference}: tensor {name} holds NaN or infinite values; the checkpoint is damaged")
    clip.model.eval()
    return clip.to(where)


def _open(reference: str, checkpoint: Path | None) -> Clip:
    from unbackdoor.clip import huggingface, openclip

    if not reference:
        raise InputError("no model named; give --model REFERENCE, for example embedded")
    path = Path(reference)
    schemes = ("local-dir:", "hf-hub:", "random:", "adapter:")
    whole = reference == "embedded" or reference.startswith(schemes) or path.is_dir()
    if checkpoint is not None and whole:
        raise InputError(
            f"{reference} brings its own weights; leave --checkpoint {checkpoint} out, or name its architecture"
        )
    if reference == "embedded":
        return openclip.from_folder(EMBEDDED, "embedded")
    if reference.startswith("local-dir:"):
        return openclip.from_folder(Path(reference.removeprefix("local-dir:")), reference)
    if reference.startswith("hf-hub:"):
        return openclip.from_hub(reference)
    if reference.startswith("random:"):
        return openclip.from_name(reference.removeprefix("random:"), reference, None)
    if reference.startswith("adapter:"):
        return _with_adapter(reference)
    if path.is_dir():
        for folder in (path / "model", path):
            if (folder / "open_clip_config.json").is_file():
                return openclip.from_folder(folder, reference)
            if (folder / "config.json").is_file():
                return huggingface.from_folder(folder, reference)
        raise InputError(f"{reference}: the folder holds neither open_clip_config.json nor config.json")
    if checkpoint is None and path.suffix == ".safetensors" and path.is_file():
        from unbackdoor.clip.difference import from_file

        return from_file(path, lambda base: _open(base, None))
    if checkpoint is None and (path.suffix or "/" in reference):
        raise InputError(
            f"{reference}: no such model folder; for a bare weight file name its architecture: "
            "--model ViT-B-32 --checkpoint FILE"
        )
    return openclip.from_name(reference, reference, checkpoint, needs_weights=True)


def _with_adapter(reference: str) -> Clip:
    from unbackdoor.weights.lora import read_adapter, read_config
    from unbackdoor.weights.vector import add_

    place, _, named = reference.removeprefix("adapter:").partition("@")
    folder = Path(place)
    base = named or str(read_config(folder).get("base_model_name_or_path") or "")
    if not named and not Path(base).is_dir():
        raise InputError(f"{reference}: its base {base!r} is no folder here; name it as adapter:{place}@REFERENCE")
    clip = _open(base, None)
    try:
        add_(clip.state(), read_adapter(folder), 1.0)
    except InputError as error:
        raise InputError(f"{reference} on {base}: {error}") from None
    clip.reference = reference
    return clip
