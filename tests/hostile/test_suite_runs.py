"""Hostile inputs: what runs leave, and the command line itself."""

from __future__ import annotations

from tests.hostile.suite import flags, runs
from tests.hostile.suite.pytest_rooms import rooms

forking_server, test_refused = rooms([*runs.ENTRIES, *flags.ENTRIES])
