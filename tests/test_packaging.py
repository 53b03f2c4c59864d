"""What is shipped: types in the wheel, and in the source archive whatever the tests and `make` need."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_types_are_shipped() -> None:
    assert (ROOT / "src" / "unbackdoor" / "py.typed").is_file()


def test_the_source_archive_is_whole() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = re.findall(r'"/([^"]+)"', text.partition("[tool.hatch.build.targets.sdist]")[2].partition("]\n")[0])
    assert named and all((ROOT / name).exists() for name in named)
    needed = {"src", "tests", "recipes", "benchmarks", "docs", ".ci", "Makefile", "constraints.txt", "LICENSE"}
    assert needed <= set(named)


def test_links_of_the_readme_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text)}
    assert links and all(link.startswith("https:") or (ROOT / link).exists() for link in links if link)
