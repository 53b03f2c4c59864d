"""Pages for people: every link of one to another, to a picture or to a heading leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = sorted(path for path in (ROOT, ROOT / "docs", ROOT / "docs" / "lab") for path in path.glob("*.md"))


def links(text: str) -> list[str]:
    """Targets of links and pictures, code left out."""
    bare = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    return re.findall(r"\]\(<?([^)\s>]+)>?\)", bare) + re.findall(r'src="([^"]+)"', bare)


def anchors(text: str) -> set[str]:
    """What headings are called in an address, as GitHub makes it."""
    heads = re.findall(r"^#+ +(.*?) *$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", h)).strip().lower().replace(" ", "-")
        for h in heads
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    lost = []
    for link in links(page.read_text(encoding="utf-8")):
        place, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        there = page if not place else (page.parent / place)
        if not there.exists() or (anchor and anchor not in anchors(there.read_text(encoding="utf-8"))):
            lost.append(link)
    assert lost == []


def test_a_lost_link_is_seen() -> None:
    assert links('[a](b.md#c) `[no](x)` ![p](q.png) <img src="r.svg">') == ["b.md#c", "q.png", "r.svg"]
    assert anchors("# What is: ξ, and α?\n```\n# no\n```\n## A `b` c") == {"what-is-ξ-and-α", "a-b-c"}


def test_code_names_pages_that_are_there() -> None:
    """Comments and messages send people to pages."""
    files = [path for room in ("src", "recipes", "benchmarks", "tests") for path in (ROOT / room).rglob("*")]
    lost = []
    for path in files:
        if path.suffix not in (".py", ".yaml", ".md"):
            continue
        for page in re.findall(r"\bdocs/[\w/-]+\.(?:md|jpg|svg|csv|jsonl)\b", path.read_text(encoding="utf-8")):
            if not (ROOT / page).exists():
                lost.append(f"{path}: {page}")
    assert lost == []
