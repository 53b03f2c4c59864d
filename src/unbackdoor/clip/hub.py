"""Models of the Hugging Face hub: the one place of this room that reaches the network, for references users typed."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from unbackdoor.base.errors import InputError, first_line
from unbackdoor.base.untrusted import read_json
from unbackdoor.clip.library import guarded
from unbackdoor.weights.stored import beside

TEXTS = (".json", ".txt", ".model")
CONFIGS = ("open_clip_config.json", "config.json")
# OpenCLIP's own order of preference, before Hugging Face's files.
OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_INDEX = ".index.json"


def fetch_model(repository: str, what: str) -> Path:
    """A folder with the configurations, tokenizer files and the best weights of a repository.

    Many repositories hold the same weights in several formats; one of them is fetched, safetensors where there is one.

    Args:
        what: the reference, for the error.

    Raises:
        InputError: it cannot be fetched, or holds no model.
    """
    names = _listed(repository, what)
    texts = [n for n in names if n.endswith(TEXTS) and "/" not in n]
    if names and not set(CONFIGS) & set(texts):
        raise InputError(f"{what}: the repository holds neither {' nor '.join(CONFIGS)}, so no model to open")
    folder = _snapshot(repository, texts or [f"*{suffix}" for suffix in TEXTS], what)
    weights = _weights(names, folder)
    return _snapshot(repository, [*texts, *weights], what) if weights else folder


def fetch_tokenizer(repository: str, what: str, *, online: bool) -> Path:
    """A folder with a repository's tokenizer files, from the cache alone unless `online`.

    Raises:
        InputError: it is not there, or cannot be fetched.
    """
    return _snapshot(repository, [f"*{suffix}" for suffix in TEXTS], what, online=online)


def _weights(names: Collection[str], folder: Path) -> list[str]:
    own = [n for n in OPEN_CLIP_WEIGHTS if n in names] if "open_clip_config.json" in names else []
    for name in (*own[:1], *WEIGHTS):
        if name in names:
            return [name]
        if f"{name}{_INDEX}" in names:
            places = read_json(folder / f"{name}{_INDEX}").get("weight_map")
            files = set(places.values()) if isinstance(places, dict) else set()
            return sorted(str(file) for file in files if beside(str(file)) and file in names)
    return []


def _listed(repository: str, what: str) -> list[str]:
    """The repository's files; none where only the cache can be asked."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        with guarded(online=True):
            return list(HfApi().list_repo_files(repository))
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InputError(f"{what}: cannot be fetched ({first_line(error)})") from None
    except Exception:  # no network: what was fetched before may still be there
        return []


def _snapshot(repository: str, patterns: list[str], what: str, *, online: bool = True) -> Path:
    from huggingface_hub import snapshot_download

    choice: dict[str, Any] = {} if online else {"local_files_only": True}
    try:
        with guarded(online=online):
            return Path(snapshot_download(repository, allow_patterns=patterns, **choice))
    except Exception as error:  # many kinds, from no network to no such repository; the user needs one line
        raise InputError(f"{what}: cannot be fetched ({first_line(error)})") from None
