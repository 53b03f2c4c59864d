"""Hostile inputs: data, pictures and lists."""

from __future__ import annotations

from tests.hostile.suite import pictures, sources, texts
from tests.hostile.suite.pytest_rooms import tests_of

forking_server, test_refused = tests_of([*sources.ENTRIES, *pictures.ENTRIES, *texts.ENTRIES])
