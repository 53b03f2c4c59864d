"""Hostile inputs: what runs leave, and the command line itself."""

from __future__ import annotations

from tests.hostile.suite import flags, runs
from tests.hostile.suite.pytest_rooms import tests_of

forking_server, test_refused = tests_of([*runs.ENTRIES, *flags.ENTRIES])
