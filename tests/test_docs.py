"""Pages for people: links lead somewhere, plain words, a page for every command, codes as the program says them."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from recipes.site import stranger
from recipes.site.readability import prose, reading_ease, syllables
from recipes.site.reference import command_page, schema_page

from tests.conftest import ROOT
from unbackdoor.cli.main import COMMANDS, cli

DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
PLAIN = [ROOT / "README.md", DOCS / "index.md", *sorted((DOCS / "tutorials").glob("*.md"))]


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


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
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


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_figures_of_the_readme_are_those_of_the_pages() -> None:
    """Its table repeats what the pages of results say."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    begin = r"\| (scan|cure|the published)"
    rows = [row.strip("| ").split(" | ") for row in text.splitlines() if re.match(begin, row)]
    assert len(rows) == 5
    for row in rows:
        page = "results.md" if "the same nineteen" in row[1] or "made by others" in row[1] else "scan.md"
        figures = set(re.findall(r"\d+\.\d", row[-1]))
        assert figures and figures <= set(re.findall(r"\d+\.\d", (DOCS / page).read_text(encoding="utf-8"))), row


@pytest.mark.parametrize("page", PLAIN, ids=name)
def test_pages_to_begin_with_are_easy_to_read(page: Path) -> None:
    assert reading_ease(page.read_text(encoding="utf-8")) >= 50


def test_reading_ease_counts_as_flesch_does() -> None:
    page = "# The cat\n\n```\nno\n```\n| no | no |\n\nThe cat sat `x` on. [A dog](b.md) barked!\n\n- An item of it\n"
    assert [s.split() for s in prose(page)] == [
        ["#", "The", "cat"], ["The", "cat", "sat", "it", "on"], ["A", "dog", "barked"], ["-", "An", "item", "of", "it"]
    ]  # fmt: skip
    words = {"cat": 1, "model": 2, "table": 2, "named": 1, "wanted": 2, "backdoor": 2, "accuracy": 4, "the": 1}
    assert {word: syllables(word) for word in words} == words
    assert reading_ease("The cat sat on the mat.") == pytest.approx(206.835 - 1.015 * 6 - 84.6)
    hard = "Institutional internationalization necessitates interdisciplinary intercommunication continually."
    assert reading_ease(hard) < 0


def nav(entries: Any) -> list[str]:
    """Pages that a navigation names."""
    if isinstance(entries, str):
        return [entries]
    parts = entries.values() if isinstance(entries, dict) else entries
    return [page for part in parts for page in nav(part)]


def site() -> dict[str, Any]:
    """`mkdocs.yml`, its Python tags left aside."""
    text = re.sub(r"!!python\S*", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    read: dict[str, Any] = yaml.safe_load(text)
    return read


def test_the_site_names_every_page_once() -> None:
    named = nav(site()["nav"])
    made = {"reference/commands/", "reference/python.md", "reference/schemas.md"}  # by recipes/site/reference.py
    assert sorted(named) == sorted({page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")} | made)


def test_the_site_fetches_nothing() -> None:
    settings = site()
    assert settings["theme"]["font"] is False and settings["strict"] is True
    assert not {"repo_url", "extra_css", "extra_javascript"} & set(settings)
    assert "analytics" not in settings["extra"]


@pytest.mark.parametrize("command", COMMANDS.names())
def test_every_command_has_a_page_with_all_its_options(command: str) -> None:
    page = command_page(command, COMMANDS.get(command))
    assert page.startswith(f"# {command}\n")
    whole = COMMANDS.get(command)
    parts = list(whole.commands.values()) if isinstance(whole, click.Group) else [whole]
    for part in parts:
        for param in part.params:
            if isinstance(param, click.Option) and not param.hidden:
                assert f"`{param.opts[-1]}" in page or f"{param.opts[-1]} " in page, param.opts
        if isinstance(whole, click.Group):
            assert f"## {command} {part.name}\n" in page


def test_every_schema_is_described() -> None:
    page = schema_page()
    kept = {path.name for path in (ROOT / "src" / "unbackdoor" / "assets" / "schemas").glob("*.json")}
    assert set(re.findall(r"^## (\S+\.json)$", page, flags=re.MULTILINE)) == kept
    assert "| `before.asr` | number or null |" in page


def test_exit_codes_are_those_of_the_program() -> None:
    """The page lists what the program's help and its source say."""
    page = (DOCS / "reference" / "exit-codes.md").read_text(encoding="utf-8")
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", page, flags=re.MULTILINE)}
    source = (ROOT / "src" / "unbackdoor" / "cli" / "main.py").read_text(encoding="utf-8")
    words = re.search(r"Exit codes: (.*?)\n\"\"\"", source, flags=re.DOTALL)
    assert words is not None
    stated = {int(code) for code in re.findall(r"\b(\d+) [a-z`]", words[1])}
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    used = {ast.literal_eval(call.args[1]) for call in calls if getattr(call.func, "id", "") == "_fail"} | {0}
    assert listed == stated and used == listed - {1, 4}, "1 and 4 are what a command answers"
    assert {int(code) for code in re.findall(r"\b(\d+) \w", cli.help or "")} <= listed


def test_the_readme_says_what_vets_exit_codes_mean() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "0 passes, 1 fails, 2 bad input, 3 internal error, 4 cannot tell" in text


def test_the_stranger_s_lines_stand_on_the_first_screen() -> None:
    """`recipes/site/stranger.py` runs them; a page that moves them breaks it."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [line.split()[:2] for line in stranger.commands(readme)] == [
        ["pip", "install"],
        ["unbackdoor", "poison"],
        ["unbackdoor", "vet"],
        ["unbackdoor", "vet"],
    ]
    first = "\n".join(readme.splitlines()[:60])
    assert stranger.commands(first) == stranger.commands(readme)
    with pytest.raises(ValueError, match="pip install"):
        stranger.commands(readme.replace("pip install .\n", "", 1))
