"""Hostile inputs: model folders of either library."""

from __future__ import annotations

from tests.hostile.suite import huggingface, openclip
from tests.hostile.suite.pytest_rooms import tests_of

forking_server, test_refused = tests_of([*openclip.ENTRIES, *huggingface.ENTRIES])
