"""JSON in, one self-contained HTML file out."""

from __future__ import annotations

from unbackdoor.report.page import Example, render, write_report

__all__ = ["Example", "render", "write_report"]
