"""Hostile inputs: data, pictures and lists."""

from __future__ import annotations

from tests.hostile.suite import pictures, sources, texts
from tests.hostile.suite.pytest_rooms import rooms

forking_server, test_refused = rooms([*sources.ENTRIES, *pictures.ENTRIES, *texts.ENTRIES])
