"""Hostile inputs: model folders of either library."""

from __future__ import annotations

from tests.hostile.suite import huggingface, openclip
from tests.hostile.suite.pytest_rooms import rooms

forking_server, test_refused = rooms([*openclip.ENTRIES, *huggingface.ENTRIES])
