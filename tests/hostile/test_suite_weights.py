"""Hostile inputs: checkpoints and adapters."""

from __future__ import annotations

from tests.hostile.suite import adapters, checkpoints
from tests.hostile.suite.pytest_rooms import tests_of

forking_server, test_refused = tests_of([*checkpoints.ENTRIES, *adapters.ENTRIES])
