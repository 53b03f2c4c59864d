"""What `mkdocs.yml` calls: reference pages made from the code, and links that lead out of the site."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).parent))

from reference import COMMANDS, pages

ROOT = Path(__file__).parents[2]


def on_config(config: Any) -> Any:
    """Put a page for each command where the navigation names their folder."""
    config.nav = _with_commands(config.nav, [path for path in pages() if path.startswith(COMMANDS)])
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made from the code."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A link to a file of the repository that is no page or picture of the site becomes the file's name."""
    here = (ROOT / "docs" / page.file.src_path).parent

    def plain(match: re.Match[str]) -> str:
        text, place = match[1], (here / match[2].partition("#")[0]).resolve()
        if re.match(r"[a-z]+:|#", match[2]) or (place.is_relative_to(ROOT / "docs") and not place.is_dir()):
            return match[0]
        name = place.relative_to(ROOT)
        return f"`{name}`" if text.strip("`") in str(name) else f"{text} (`{name}`)"

    return re.sub(r"\[([^]\[]+)\]\(([^)\s]+)\)", plain, markdown)


def _with_commands(nav: list[Any], made: list[str]) -> list[Any]:
    entries: list[Any] = []
    for entry in nav:
        if isinstance(entry, dict):
            [(name, value)] = entry.items()
            value = made if value == COMMANDS else _with_commands(value, made) if isinstance(value, list) else value
            entry = {name: value}
        entries.append(entry)
    return entries
