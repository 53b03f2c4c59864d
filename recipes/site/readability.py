"""Flesch's reading ease of a Markdown page, code, tables and pictures left out.

    python recipes/site/readability.py README.md docs/*.md

206.835 − 1.015 · words per sentence − 84.6 · syllables per word (Flesch 1948); 60 to 70 is plain English. Syllables are
groups of vowels, less a silent end: on this project's pages within 2% of the CMU dictionary, and above it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_LOUD = ("le", "ted", "ded", "ses", "xes", "zes", "ches", "shes")  # ends that are spoken


def prose(page: str) -> list[str]:
    """The sentences of a page. A heading, an item of a list and a paragraph end one."""
    text = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"!\[[^]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`]*`", "it", text)
    parts = re.split(r"\n\s*\n|\n(?=#|- |\d+\. )", text)
    return [s for part in parts for s in re.split(r"[.!?]+(?=\s|$)", part) if re.search(r"[A-Za-z]{2}", s)]


def syllables(word: str) -> int:
    """About how many a word has; at least 1."""
    word = word.lower()
    if len(word) > 3 and not word.endswith(_LOUD):
        word = re.sub(r"(?:es|ed|e)$", "", word)
    return max(1, len(re.findall(r"[aeiouy]+", word)))


def reading_ease(page: str) -> float:
    """Flesch's figure for a page; 100 and more for a page without words."""
    sentences = prose(page)
    words = [word for sentence in sentences for word in re.findall(r"[A-Za-z']+", sentence)]
    if not words:
        return 206.835
    return 206.835 - 1.015 * len(words) / len(sentences) - 84.6 * sum(map(syllables, words)) / len(words)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{reading_ease(Path(name).read_text(encoding='utf-8')):6.1f}  {name}")
