"""`convert`: one model in the other library's form."""

from __future__ import annotations

from pathlib import Path

from unbackdoor.base.manifest import Manifest
from unbackdoor.clip.convert import convert as convert_clip
from unbackdoor.clip.handle import Clip
from unbackdoor.runs.case import open_model
from unbackdoor.runs.parameters import keywords
from unbackdoor.runs.run import weights_hash
from unbackdoor.verbs.configs.models import CONVERT
from unbackdoor.verbs.results import ConvertResult
from unbackdoor.verbs.results.plants import FormDifferences


@keywords(CONVERT)
def convert(*, model: str | Clip, to: str, out: str | Path, checkpoint: Path | None, device: str) -> ConvertResult:
    """Write an OpenCLIP model as Hugging Face's `CLIPModel`, or the other way round, with equal embeddings.

    Args:
        model: a model reference or a handle.
        to: `hf` or `open_clip`.
        out: a folder that is not there yet; tokeniser and preprocessing come along, so that the other library opens it.

    Returns:
        `differences`: largest differences of unit embeddings between the two forms, of `images` and of `texts`, which
        are at most `unbackdoor.clip.convert.EQUAL`.

    Raises:
        InputError: the model has no such form, is of it already, or comes out with other embeddings; `out` is there.
    """
    out = Path(out)
    clip = open_model(model, checkpoint, device)
    manifest = Manifest("convert", {"model": clip.reference, "to": to})
    manifest.hashes["weights_before"] = weights_hash(clip)
    gaps = convert_clip(clip, to, out)
    manifest.notes["differences"] = gaps
    manifest.write(out)
    return ConvertResult(
        model=str(out),
        model_reference=clip.reference,
        to=to,
        differences=FormDifferences(**gaps),
        seconds=round(manifest.seconds, 2),
    )
