"""The import rule of docs/architecture.md, and that nothing heavy is loaded before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "unbackdoor"

# From the top down; a module may import from its own layer and from those below it.
LAYERS = (
    ("cli",),
    ("verbs",),
    ("defenses", "inversion", "geometry", "bench", "zoo", "report"),
    ("evaluation", "answers"),
    ("training", "metrics", "data", "triggers"),
    ("clip",),
    ("weights", "manifest"),
    ("errors", "progress", "devices", "disk", "untrusted", "printable", "notices", "journal"),
)
LEVEL = {room: i for i, rooms in enumerate(LAYERS) for room in rooms}
TORCH_ONLY = ("triggers", "weights", "metrics")
FOREIGN = ("open_clip", "transformers", "timm", "unbackdoor.clip", "unbackdoor.data", "unbackdoor.training")


def imports(text: str) -> set[str]:
    """Every module named by an import anywhere in the file; type-only imports count too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def violations(room: str, text: str) -> list[str]:
    bad = []
    for name in imports(text):
        parts = name.split(".")
        if parts[0] == "unbackdoor" and len(parts) > 1 and parts[1] in LEVEL and LEVEL[parts[1]] < LEVEL[room]:
            bad.append(f"{room} imports upwards: {name}")
        if room in TORCH_ONLY and name.startswith(FOREIGN):
            bad.append(f"{room} must know torch only: {name}")
    return bad


FILES = sorted(p for p in SOURCE.glob("**/*.py") if p.parent != SOURCE or p.stem in LEVEL)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_imports_upwards(path: Path) -> None:
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if room == "assets":
        return
    assert room in LEVEL, f"{room} stands in no layer: add it to the table and to docs/architecture.md"
    assert violations(room, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("room", "text"),
    [
        ("triggers", "from unbackdoor.clip.handle import Clip"),
        ("weights", "def f():\n    import open_clip"),
        ("data", "from unbackdoor.verbs import poison"),
        ("clip", "import unbackdoor.defenses.tbar"),
    ],
)
def test_the_rule_can_be_broken(room: str, text: str) -> None:
    assert violations(room, text)


@pytest.mark.parametrize("module", ["unbackdoor", "unbackdoor.cli.main", "unbackdoor.clip", "unbackdoor.data"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    probe = f"import sys, {module}\nsys.exit(sorted({{'torch', 'numpy', 'open_clip'}} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_layer_is_in_the_document() -> None:
    page = (SOURCE.parent.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    for room in LEVEL:
        assert f"`{room}`" in page, room
