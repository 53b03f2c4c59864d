"""Hostile inputs, each a whole run of the command line under watch: see `runner`."""

from __future__ import annotations

from tests.hostile.suite.runner import Entry


def entries() -> list[Entry]:
    """All of them, in the order of their files."""
    from tests.hostile.suite import adapters, checkpoints, flags, huggingface, openclip, pictures, runs, sources, texts

    rooms = (openclip, huggingface, texts, checkpoints, adapters, runs, sources, pictures, flags)
    every = [entry for room in rooms for entry in room.ENTRIES]
    names = [entry.name for entry in every]
    assert len(set(names)) == len(names), "two entries share a name"
    return every
