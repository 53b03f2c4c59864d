"""Metrics: pure functions and their streaming forms; they know torch only."""
