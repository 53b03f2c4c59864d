"""JSON in, one self-contained HTML file out."""

from __future__ import annotations

from unbackdoor.report.cure import Example, Map, render, write_report

__all__ = ["Example", "Map", "render", "write_report"]
