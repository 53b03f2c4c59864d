"""OpenCLIP's architectures and the weights published for them: names, tags, preprocessing, activation, files.

A bare file of weights says neither how pictures were prepared for it nor which activation its towers have, and weights
published under one architecture's name differ in both. A tag (`ViT-L-14:laion2b_s32b_b82k`) says it; so does a file
that is one of those whose SHA-256 is known, or that carries OpenAI's marks. Any other file says nothing, and a
warning tells the user what we may read wrongly.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unbackdoor.base.disk import digest
from unbackdoor.base.errors import InputError, first_line
from unbackdoor.base.untrusted import is_there
from unbackdoor.clip.library import guarded

Json = dict[str, Any]
# What OpenAI's archives carry beside their weights.
MARKS = ("input_resolution", "context_length", "vocab_size")
_WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pkl", ".npz")
_KEYS = ("mean", "std", "interpolation", "resize_mode")
# Files of OpenCLIP's releases are named so: vit_b_32-quickgelu-laion400m_e32-46683a32.pt.
_SUM = re.compile(r"(?<=-)[0-9a-f]{8}(?=\.\w+$)")


@dataclass(frozen=True)
class Reading:
    """How weights of an architecture are read.

    Args:
        preprocess: the known ones of `mean`, `std`, `interpolation`, `resize_mode`.
        quick_gelu: whether the towers have OpenAI's activation, x·σ(1.702x); timm's towers never do.
        doubt: what to tell the user where published weights are read in another way; empty where there is no doubt.
    """

    preprocess: Json
    quick_gelu: bool
    doubt: str = ""


def parse(reference: str) -> tuple[str, str] | None:
    """Architecture and tag (empty without one) of a name as OpenCLIP and OpenAI write it; None for anything else.

    `ViT-B-32`, `ViT-B/32`, `ViT-L/14@336px`, each with `:tag` or without.
    """
    import open_clip

    name, _, tag = reference.partition(":")
    known = set(open_clip.list_models())
    for written in (name, name.replace("/", "-"), name.replace("/", "-").replace("@", "-").removesuffix("px")):
        if written in known:
            return written, tag
    return None


def is_folder(place: str | Path) -> bool:
    """Whether a folder has this path; a name that no file can have is none's."""
    return is_there(Path(place)) and Path(place).is_dir()


def unknown(name: str) -> InputError:
    """The error for a reference that is nothing known, with what was probably meant."""
    import open_clip

    place, _, tag = name.rpartition(":")
    if place == "embedded" or place.startswith(("local-dir:", "hf-hub:", "adapter:")) or (place and is_folder(place)):
        return InputError(f"{place} brings its own weights; leave the tag {tag!r} out, or name an architecture")
    suffix = Path(name).suffix
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) and suffix not in _WEIGHTS:
        return InputError(f"{name}: no such model folder; for a model of the hub write hf-hub:{name}")
    if "/" in name or suffix:
        return InputError(
            f"{name}: no such model folder; for a bare weight file name its architecture: "
            "--model ViT-B-32 --checkpoint FILE"
        )
    near = difflib.get_close_matches(name.partition(":")[0], open_clip.list_models(), n=3)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    return InputError(f"{name!r} is neither a folder nor an OpenCLIP architecture{hint}")


def tags(name: str) -> dict[str, Json]:
    """What the library knows of an architecture's published weights, by tag."""
    import open_clip

    return {tag: open_clip.get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)}


def check_tag(name: str, tag: str) -> str:
    """A tag as the library writes it.

    Raises:
        InputError: no weights of this architecture have it.
    """
    known = tags(name)
    plain = tag.lower().replace("-", "_")
    if plain not in known:
        choice = f"choose one of {_listed(list(known), 12)}" if known else "none are published"
        raise InputError(f"{name}: no published weights have the tag {tag!r}; {choice}")
    return plain


def common_preprocess(name: str) -> Json:
    """The preprocessing of an architecture's published weights where they all agree, otherwise nothing."""
    choices = [_preprocess(tag) for tag in tags(name).values()]
    return choices[0] if choices and all(f == choices[0] for f in choices) else {}


def reading(name: str, tag: str, names: Collection[str], file: Path | None, config: Mapping[str, Any]) -> Reading:
    """How a file of weights is read.

    Args:
        tag: of the weights, or empty.
        names: of the tensors in the file.
        file: the weights, None where there are none.
        config: the architecture's own, with `quick_gelu` where it says so.
    """
    known, own = tags(name), bool(config.get("quick_gelu"))
    if not tag and set(MARKS) <= set(names):
        return Reading(_preprocess(known["openai"]) if "openai" in known else {}, True)
    if not tag and file is not None and _readings(name, own) != {_key(common_preprocess(name), own)}:
        tag = _tag_of(file, known)
    if tag:
        return Reading(_preprocess(known[tag]), own or bool(known[tag].get("quick_gelu")))
    usual = Reading(common_preprocess(name), own)
    return usual if file is None else replace(usual, doubt=_doubt(name, file, usual))


def fetch(name: str, tag: str) -> Path:
    """The file of published weights, from the library's cache or the network.

    Raises:
        InputError: it cannot be fetched.
    """
    from open_clip.pretrained import download_pretrained

    try:
        with guarded(online=True):
            return Path(download_pretrained(tags(name)[tag]))
    except Exception as error:  # many kinds, from no network to a wrong checksum; the user needs one line
        raise InputError(f"{name}:{tag}: cannot be fetched ({first_line(error)})") from None


def similar(shapes: Mapping[str, Sequence[int]]) -> str:
    """Which architectures of OpenCLIP's own towers have tensors of these shapes, as a hint; empty where none has."""
    import open_clip

    try:
        patches, text = shapes["visual.conv1.weight"], shapes["positional_embedding"]
        sides = {
            "width": patches[0], "patch_size": patches[2], "layers": _count(shapes, "visual.transformer.resblocks."),
            "rows": shapes["visual.positional_embedding"][0] - 1,
        }  # fmt: skip
        words = {
            "width": text[1], "context_length": text[0], "vocab_size": shapes["token_embedding.weight"][0],
            "layers": _count(shapes, "transformer.resblocks."),
        }  # fmt: skip
    except (KeyError, IndexError):
        return ""
    names = []
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        vision, captions = config["vision_cfg"], {"context_length": 77, "vocab_size": 49408, **config["text_cfg"]}
        patch = vision.get("patch_size")
        if "timm_model_name" in vision or not patch or isinstance(vision["layers"], list):
            continue
        if {**vision, "rows": (vision["image_size"] // patch) ** 2}.items() >= sides.items() and all(
            captions.get(key) == value for key, value in words.items()
        ):
            names.append(name)
    return f"its shapes are those of {_listed(names, 4)}" if names else ""


def _count(shapes: Mapping[str, Sequence[int]], prefix: str) -> int:
    return len({name.removeprefix(prefix).partition(".")[0] for name in shapes if name.startswith(prefix)})


def _preprocess(tag: Mapping[str, Any]) -> Json:
    return {key: tag[key] for key in _KEYS if tag.get(key)}


def _key(preprocess: Mapping[str, Any], quick: bool) -> tuple[Any, ...]:
    return (*(preprocess.get(key) for key in _KEYS), quick)


def _readings(name: str, own: bool) -> set[tuple[Any, ...]]:
    return {_key(_preprocess(tag), own or bool(tag.get("quick_gelu"))) for tag in tags(name).values()}


def _tag_of(file: Path, known: Mapping[str, Json]) -> str:
    """The tag whose file this is, by the SHA-256 whose first digits stand in the address of some and in its name."""
    by_digits = {digits: tag for tag, facts in known.items() for digits in _SUM.findall(str(facts.get("url")))}
    sums = {digits: tag for digits, tag in by_digits.items() if digits in file.name}
    if not sums:
        return ""
    whole = digest(file)
    return next((tag for digits, tag in sums.items() if whole.startswith(digits)), "")


def _doubt(name: str, file: Path, usual: Reading) -> str:
    groups: dict[str, list[str]] = {}
    for tag, facts in tags(name).items():
        if not usual.quick_gelu and facts.get("quick_gelu"):
            groups.setdefault("QuickGELU", []).append(tag)
        for key in _KEYS:
            value, here = facts.get(key), usual.preprocess.get(key) or _DEFAULTS[key]
            if value and value != here:
                groups.setdefault(f"{key} {_plain(value)}", []).append(tag)
    if not groups:
        return ""
    needs = "; ".join(f"{need} for {_listed(which, 3)}" for need, which in groups.items())
    return (
        f"{file}: published weights of {name} are not all read alike ({needs}); this file is read as {name} says. "
        f"If it comes from one of them, name it: --pretrained TAG, or {name}:TAG as the model"
    )


_DEFAULTS: Json = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else "/".join(f"{v:.3g}" for v in value)


def _listed(names: Sequence[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
