"""Rooms of hostile entries as ordinary tests, one server for each file of tests."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.suite.runner import Entry, Server, server


def rooms(entries: Sequence[Entry]) -> tuple[Any, Callable[..., None]]:
    """A fixture that holds the server, and the test that runs every entry by it; bind both to names of a module."""

    @pytest.fixture(scope="module", name="forking_server")
    def forking_server() -> Iterator[Server]:
        with server() as own:
            yield own

    @pytest.mark.parametrize("entry", entries, ids=lambda entry: entry.name)
    def test_a_hostile_input_is_refused_under_watch(entry: Entry, forking_server: Server) -> None:
        # Not `tmp_path`, which pytest keeps: some of these inputs are large.
        with tempfile.TemporaryDirectory(prefix="hostile-") as room:
            outcome = forking_server.run(entry, Path(room))
        assert not outcome.faults, "; ".join(outcome.faults) + "\n" + (outcome.err or outcome.out)[-2000:]

    return forking_server, test_a_hostile_input_is_refused_under_watch
