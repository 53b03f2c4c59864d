"""Calling OpenCLIP and transformers on a stranger's files: quietly, off the network, and without running their code."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unbackdoor.disk import atomic

_COPIED = (".json", ".txt", ".model")


@contextmanager
def guarded(*, online: bool = False) -> Iterator[None]:
    """Run library code with no chatter, no questions and, unless `online`, no network.

    A configuration can name a hub model as its text tower, trunk or tokeniser; the libraries would fetch it unasked.
    They read their offline switch once, from the environment, so the switch itself is turned here. What is already
    in the local cache is still found.
    """
    import huggingface_hub.constants as hub

    changed: list[tuple[object, str, object]] = []

    def turn(owner: object, name: str, value: object) -> None:
        if hasattr(owner, name):
            changed.append((owner, name, getattr(owner, name)))
            setattr(owner, name, value)

    try:
        import transformers.dynamic_module_utils as dynamic
        import transformers.utils.hub as transformers_hub
    except ImportError:
        pass
    else:
        # Nought seconds: a folder that brings code is refused instead of the user being asked about it on stdout.
        turn(dynamic, "TIME_OUT_REMOTE_CODE", 0)
        if not online:
            turn(transformers_hub, "_is_offline_mode", True)  # a switch of its own before version 5
    if not online:
        turn(hub, "HF_HUB_OFFLINE", True)
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
        for owner, name, value in reversed(changed):
            setattr(owner, name, value)


def first_line(error: BaseException) -> str:
    """A stranger's error as part of our one line."""
    text = str(error).strip()
    return text.splitlines()[0][:160] if text else type(error).__name__


def copy_companions(source: Path, target: Path, *, but: tuple[str, ...] = ()) -> None:
    """Copy tokeniser and processor files, each atomically; never weights, indices or the files named in `but`.

    Files already in `target` are replaced, unless `target` is `source`. A link is followed only within the folder and
    within the hub's cache: one that points elsewhere could carry a private file into what the user publishes.
    """
    here = source.resolve()
    if not source.is_dir() or here == target.resolve():
        return
    allowed = (here, here.parent.parent / "blobs")
    for file in sorted(source.iterdir()):
        real = file.resolve()
        if file.suffix not in _COPIED or file.name.endswith(".index.json") or file.name in but or not real.is_file():
            continue
        if any(real.is_relative_to(place) for place in allowed):
            content = real.read_bytes()
            atomic(target / file.name, lambda temporary, content=content: _write(temporary, content))  # type: ignore[misc]


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
