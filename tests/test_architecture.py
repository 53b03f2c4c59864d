"""The import rule of docs/architecture.md, and that nothing heavy is loaded before it is needed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "unbackdoor"

# From the top down; a room imports from rows below its own, never sideways or upwards. The last five are modules of
# `base`, each a room of its own.
LAYERS = (
    ("cli",),
    ("verbs",),
    ("bench", "view"),
    ("defenses", "formats"),
    ("unlearning", "vetting"),
    ("scan",),
    ("runs",),
    ("attacks",),
    ("geometry", "report"),
    ("evaluation",),
    ("data", "training"),
    ("triggers", "clip"),
    ("metrics", "weights"),
    ("journal", "manifest"),
    ("disk", "draws", "notices", "progress", "registry", "untrusted", "work"),
    ("devices",),
    ("errors", "notebook"),
    ("printable", "version"),
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


def room_of(parts: Sequence[str]) -> str:
    """The room of a module or file, by its place in the package; each module of `base` is one of its own."""
    first = parts[1] if parts[0] == "base" and len(parts) > 1 else parts[0]
    return first.removesuffix(".py")


def violations(room: str, text: str) -> list[str]:
    bad = []
    for name in imports(text):
        parts = name.split(".")
        other = room_of(parts[1:]) if parts[0] == "unbackdoor" and len(parts) > 1 else room
        if other in LEVEL and other != room and LEVEL[other] <= LEVEL[room]:
            bad.append(f"{room} imports {'sideways' if LEVEL[other] == LEVEL[room] else 'upwards'}: {name}")
        if room in TORCH_ONLY and name.startswith(FOREIGN):
            bad.append(f"{room} must know torch only: {name}")
    return bad


FILES = sorted(p for p in SOURCE.glob("**/*.py") if p.parent != SOURCE or p.stem in LEVEL)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_imports_upwards(path: Path) -> None:
    room = room_of(path.relative_to(SOURCE).parts)
    if room in ("assets", "__init__"):
        return
    assert room in LEVEL, f"{room} stands in no layer: add it to the table and to docs/architecture.md"
    assert violations(room, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("room", "text"),
    [
        ("triggers", "from unbackdoor.clip.handle import Clip"),
        ("weights", "def f():\n    import open_clip"),
        ("data", "from unbackdoor.verbs import poison"),
        ("clip", "import unbackdoor.defenses.abl"),
        ("data", "def f():\n    from unbackdoor.training.loop import fit"),
        ("training", "from unbackdoor.data.images import ImageSet"),
        ("report", "from unbackdoor.geometry import surface"),
        ("disk", "from unbackdoor.base.untrusted import read_text"),
    ],
)
def test_the_rule_can_be_broken(room: str, text: str) -> None:
    assert violations(room, text)


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Sets of files that reach one another, by taking away, again and again, whoever reaches nobody that is left."""
    left = {name: set(others) for name, others in graph.items()}
    for turned in (False, True):  # those that lead nowhere, then those that nobody leads to
        while True:
            inside = {o for others in left.values() for o in others} if turned else {n for n, o in left.items() if o}
            if set(left) <= inside:
                break
            left = {name: others & inside for name, others in left.items() if name in inside}
    return [sorted(left)] if left else []


def graph_of(sources: dict[str, str]) -> dict[str, set[str]]:
    """Which of our files imports which, anywhere in it."""
    found: dict[str, set[str]] = {}
    for module, text in sources.items():
        found[module] = set()
        for name in imports(text):
            while name and name not in sources:
                name = name.rpartition(".")[0]
            found[module] |= {name} - {"", module}
    return found


def test_no_files_import_one_another_in_a_circle() -> None:
    assert circles(graph_of({name: path.read_text(encoding="utf-8") for name, path in modules().items()})) == []


def test_a_circle_is_seen() -> None:
    sources = {"a": "import b", "b": "def f():\n    from c import d", "c": "import a", "e": "import a", "f": ""}
    assert circles(graph_of(sources)) == [["a", "b", "c"]]


def named_by_string(text: str, known: set[str]) -> list[str]:
    """Modules that a file names in a string, outside the tables of a `Registry` and of a lazy `__getattr__`."""
    tree, allowed = ast.parse(text), set[ast.AST]()
    for node in ast.walk(tree):
        registry = isinstance(node, ast.Call) and "Registry" in ast.unparse(node.func)
        lazy = isinstance(node, ast.FunctionDef) and node.name == "__getattr__"
        public = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_PUBLIC"
        if registry or lazy or public:
            allowed |= set(ast.walk(node))
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node not in allowed
        and node.value.partition(":")[0] in known - {"unbackdoor"}
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_module_is_named_by_a_string_outside_a_registry(path: Path) -> None:
    assert named_by_string(path.read_text(encoding="utf-8"), set(modules())) == []


def test_a_module_named_by_a_string_is_seen() -> None:
    known = set(modules())
    assert named_by_string('import_module("unbackdoor.bench.zoo.cells")', known) == ["unbackdoor.bench.zoo.cells"]
    assert named_by_string('X = Registry("x", {"a": ("unbackdoor.bench.zoo.cells:f", "")})', known) == []


@pytest.mark.parametrize("module", ["unbackdoor", "unbackdoor.cli.main", "unbackdoor.clip", "unbackdoor.data"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    probe = f"import sys, {module}\nsys.exit(sorted({{'torch', 'numpy', 'open_clip'}} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_layer_is_in_the_document() -> None:
    page = (SOURCE.parent.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d+ \| (.*?) \|", page, flags=re.MULTILINE)
    assert [tuple(re.findall(r"`(\w+)`", row)) for row in rows] == list(LAYERS)


def test_the_way_from_an_option_to_the_weights_is_short_and_as_told() -> None:
    page = (SOURCE.parent.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    told = page.partition("**From `--trigger` to the weights**")[2].partition("\n\n")[0]
    way = [SOURCE / name for name in re.findall(r"`(\w+/\w+\.py)`", told)]
    assert 2 < len(way) <= 8 and all(path.exists() for path in way)
    known = {path: name for name, path in modules().items()}
    graph = graph_of({name: path.read_text(encoding="utf-8") for path, name in known.items()})
    lazy = {known[SOURCE / "triggers" / "badnets.py"]}  # named in the registry of triggers
    for number, path in enumerate(way[1:], 1):
        before = [known[other] for other in way[:number]]
        parent = known[path].rpartition(".")[0]
        reached = any({known[path], parent} & graph[other] for other in before)
        assert reached or known[path] in lazy, f"nothing before it on the way imports {path.name}"
        assert LEVEL[room_of(path.relative_to(SOURCE).parts)] >= LEVEL[room_of(way[0].relative_to(SOURCE).parts)]


# Modules and names that not every system has. Windows lacks all but a few; macOS lacks those that are Linux's alone.
ELSEWHERE = {"fcntl", "grp", "msvcrt", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty", "winreg"}
OS = """
    chroot copy_file_range eventfd fchdir fchmod fchown fdatasync fork forkpty getegid geteuid getgid getgroups getpgid
    getpriority getuid getxattr killpg lchown listxattr lockf major makedev memfd_create mkfifo mknod nice openpty pipe2
    posix_fadvise posix_fallocate posix_spawn pread preadv pwrite pwritev removexattr sched_getaffinity
    sched_setaffinity sendfile setpriority setsid setxattr statvfs sync sysconf uname wait3 wait4 waitid O_BINARY
    O_CLOEXEC O_DIRECT O_DIRECTORY O_DSYNC O_NOATIME O_NOFOLLOW O_NONBLOCK O_PATH O_SYNC O_TMPFILE WNOHANG
"""
SIGNAL = "SIGALRM SIGHUP SIGKILL SIGQUIT SIGUSR1 SIGUSR2 alarm pause setitimer sigwait"
MISSING = {
    "os": set(OS.split()),
    "signal": set(SIGNAL.split()),
    "socket": {"AF_UNIX"},
    "time": {"clock_gettime", "tzset"},
}


def unguarded(text: str) -> list[str]:
    """What a file takes for granted that some system lacks: imports outside `try … except ImportError`, plain names."""
    tree, safe = ast.parse(text), set[ast.AST]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Try) and any(
            "ImportError" in ast.unparse(h.type or ast.Constant("")) for h in node.handlers
        ):
            parts = [*node.body, *(part for handler in node.handlers for part in handler.body)]
            safe |= {inner for part in parts for inner in ast.walk(part)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and node not in safe:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [name for name in names if name.partition(".")[0] in ELSEWHERE]
        if isinstance(node, ast.ImportFrom) and node.module in MISSING:
            found += [f"{node.module}.{a.name}" for a in node.names if a.name in MISSING[node.module]]
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node not in safe:
            found += [ast.unparse(node)] * (node.attr in MISSING.get(node.value.id, set()))
    return found


def test_nothing_is_taken_for_granted_that_a_system_lacks() -> None:
    found = {
        str(p.relative_to(SOURCE)): bad for p in SOURCE.glob("**/*.py") if (bad := unguarded(p.read_text("utf-8")))
    }
    assert not found


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("import resource", ["resource"]),
        ("from fcntl import flock", ["fcntl"]),
        ("def f():\n import pwd", ["pwd"]),
        ("try:\n import fcntl\nexcept OSError:\n pass", ["fcntl"]),
        ("try:\n import fcntl\nexcept ImportError:\n import msvcrt", []),
        ("import os\nos.preadv(0, [], 0)", ["os.preadv"]),
        ("import os\nos.posix_fallocate(0, 0, 1)", ["os.posix_fallocate"]),
        ("from os import sched_getaffinity", ["os.sched_getaffinity"]),
        ("import os\ngetattr(os, 'O_NONBLOCK', 0)", []),
        ("import signal\nsignal.SIGKILL", ["signal.SIGKILL"]),
    ],
)
def test_what_is_taken_for_granted_is_seen(text: str, bad: list[str]) -> None:
    assert unguarded(text) == bad
