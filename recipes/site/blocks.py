"""Code blocks of a page: what they are, how they are run in order in one folder, and the outputs that stand below them.

    python recipes/site/blocks.py docs/tutorials/*.md      # run the pages, and write their outputs anew

A ```bash, ```sh or ```python block is run. One with `title="FILE"` is not run but saved under that name. A ```text
block right after one that is run holds its output.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN = ("bash", "sh", "python")
_FENCE = re.compile(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Args:
        language: as it is written after the fence.
        title: name of the file that it is, or nothing.
        text: without the fences.
        start, end: where it stands in the page, fences included.
        output: the output that the page shows for it, where it shows one.
    """

    language: str
    title: str
    text: str
    start: int
    end: int
    output: Block | None = None

    @property
    def runs(self) -> bool:
        """Whether it is a program, and no file."""
        return self.language in RUN and not self.title


def blocks(page: str) -> list[Block]:
    """The blocks of a page in order, outputs with the blocks that they belong to."""
    whole: list[Block] = []
    for match in _FENCE.finditer(page):
        block = Block(match[1], match[2] or "", match[3], match.start(), match.end())
        last = whole[-1] if whole else None
        near = last is not None and not page[last.end : block.start].strip()
        if last is not None and near and block.language == "text" and last.runs and last.output is None:
            whole[-1] = Block(last.language, last.title, last.text, last.start, last.end, block)
        else:
            whole.append(block)
    return whole


def environment(folder: Path) -> dict[str, str]:
    """This interpreter and this checkout first, one thread, no network for pip, which installs into the folder."""
    plugins = folder / ".plugins"
    paths = [str(ROOT / "src"), str(plugins), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "100",
        "UNBACKDOOR_CACHE": str(folder / ".cache"),
        "PIP_TARGET": str(plugins),
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # of pip: its value is the option's, which is a "no"
        "PIP_QUIET": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def run_page(page: str, folder: Path) -> Iterator[tuple[Block, str]]:
    """Save and run the blocks of a page, one after another; each with what it printed.

    Raises:
        RuntimeError: a block that fails.
    """
    for block in blocks(page):
        if block.title:
            (folder / block.title).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.title).write_text(block.text, encoding="utf-8")
        elif block.runs:
            yield block, run_block(block, folder)


def run_block(block: Block, folder: Path) -> str:
    """What a block prints on stdout.

    Raises:
        RuntimeError: it fails.
    """
    program = ["bash", "-e", "-o", "pipefail", "-c"] if block.language != "python" else [sys.executable, "-c"]
    done = subprocess.run(
        [*program, block.text], cwd=folder, env=environment(folder), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{block.text}\nexit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def rewrite(path: Path) -> None:
    """Run a page and write the outputs that it shows anew."""
    page = path.read_text(encoding="utf-8")
    parts, at = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for block, output in run_page(page, Path(folder)):
            if block.output is not None:
                parts += [page[at : block.output.start], f"```text\n{output.rstrip()}\n```"]
                at = block.output.end
    path.write_text("".join([*parts, page[at:]]), encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        began, before = time.perf_counter(), os.times()
        rewrite(Path(name))
        used = os.times().children_user + os.times().children_system - before.children_user - before.children_system
        print(f"{name}: {time.perf_counter() - began:.0f} s, {used:.0f} s of a core")
