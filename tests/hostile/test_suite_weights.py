"""Hostile inputs: checkpoints and adapters."""

from __future__ import annotations

from tests.hostile.suite import adapters, checkpoints
from tests.hostile.suite.pytest_rooms import rooms

forking_server, test_refused = rooms([*checkpoints.ENTRIES, *adapters.ENTRIES])
