"""Code in README and docs: every block runs, page by page in an empty folder, or says here why it cannot.

What a page shows as output is what its blocks print, numbers aside: `python recipes/site/blocks.py PAGE` writes it
anew. Blocks that cannot run here are read all the same: their commands and options have to be there.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml
from recipes.site.blocks import Block, blocks, run_page

from tests.conftest import ROOT
from unbackdoor.bench.recipe import read_recipe
from unbackdoor.cli.main import COMMANDS
from unbackdoor.verbs.results import CureResult

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(page for page in DOCS.rglob("*.md") if "lab" not in page.parts)]

MODEL, DATA = "needs a checkpoint of yours", "needs data of yours"
# page → (a line of the block, why it is not run)
DECLARED = {
    "README.md": [
        ("make demo", "tests/verbs/test_demo.py runs the demo, and this test is part of the other"),
        ("unbackdoor vet model/", MODEL),
        ("unbackdoor vet embedded", "takes minutes; the tutorial runs the like, recipes/site/stranger.py these"),
        ("unbackdoor unlearn --model M", MODEL),
    ],
    "docs/index.md": [
        ("pip install .", "needs the network"),
        ("unbackdoor vet model/", MODEL),
    ],
    "docs/concepts/xi.md": [("unbackdoor disentangle", MODEL)],
    "docs/how-to/adapters.md": [("unbackdoor unlearn --model SUSPECT", MODEL)],
    "docs/how-to/caption-pairs.md": [
        ("unbackdoor poison --regime pairs", DATA),
        ("unbackdoor unlearn --model suspect", DATA),
        ("accelerate launch", "needs several GPUs"),
    ],
    "docs/how-to/ci.md": [
        ("unbackdoor vet model/ --data", MODEL),
        ("unbackdoor vet 'models/*'", MODEL),
    ],
    "docs/how-to/compare-defenses.md": [("unbackdoor bench recipes/bench/core.yaml", DATA)],
    "docs/how-to/gpu.md": [("unbackdoor scan --model SUSPECT", "needs a GPU")],
    "docs/how-to/own-model.md": [
        ("unbackdoor info --model M", MODEL),
        ("unbackdoor evaluate --model M", MODEL),
        ("unbackdoor scan    --model M", MODEL),
    ],
    "docs/how-to/several-machines.md": [
        ("unbackdoor bench recipe.yaml", "needs a cluster"),
        ("accelerate launch", "needs several GPUs"),
    ],
    "docs/how-to/weights.md": [
        ("unbackdoor weights apply SUSPECT", MODEL),
        ("unbackdoor convert --model SUSPECT", MODEL),
    ],
    "docs/reference/results.md": [
        ('unbackdoor.unlearn(model="suspect"', MODEL),
        ("UNBACKDOOR_GOLDEN=write", "writes into the checkout"),
    ],
    "docs/integrations.md": [
        ("docker build", "needs Docker and the network"),
        ("--track tensorboard", "needs a checkpoint of yours; tests/verbs/test_tracking.py tracks"),
        ("_UNBACKDOOR_COMPLETE", "is for your shell's own file"),
        ("unbackdoor push", "needs the network"),
    ],
    "docs/scan.md": [
        ("unbackdoor scan --model local-dir:SUSPECT", MODEL),
        ("unbackdoor scan --calibrate", "needs clean models of yours"),
    ],
    "docs/vet.md": [
        ("unbackdoor vet local-dir:SUSPECT", MODEL),
        ("unbackdoor vet zoo/", MODEL),
        ('unbackdoor.vet(models=["suspect"]', MODEL),
    ],
    "docs/view.md": [("unbackdoor view runs", "opens a server and a browser")],
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def programs(page: str) -> list[Block]:
    """What a reader would run: bash, Python, and blocks without a language that call the tool."""
    call = re.compile(r"^(result = )?unbackdoor[ .]", re.MULTILINE)
    return [b for b in blocks(page) if b.runs or (not b.language and call.search(b.text))]


def why_not(page: Path, block: Block) -> str:
    """The reason for which a block is not run; nothing where it is."""
    return next((why for line, why in DECLARED.get(name(page), []) if line in block.text), "")


def runnable(page: Path) -> str:
    """A page, the blocks that are declared left out."""
    text = page.read_text(encoding="utf-8")
    for block in reversed(programs(text)):
        if why_not(page, block):
            text = text[: block.start] + text[block.end :]
    return text


def form(output: str) -> list[str]:
    """What is the same on every machine: the words that lines begin with, numbers left out."""
    lines = [re.split(r"[-+]?\d", line, maxsplit=1)[0].strip() for line in output.strip().splitlines()]
    return [line for line in lines if line]


def vetted(folder: Path) -> None:
    """The suspect fails, by a trigger to the attacker's class."""
    result = json.loads((folder / "vetted" / "result.json").read_text(encoding="utf-8"))
    assert result["exit_code"] == 1 and result["models"][0]["scan"]["target"] == "seven"
    assert (folder / "vetted" / "report.html").exists() and (folder / "vetted" / "vet.sarif").exists()


def cured(folder: Path) -> None:
    """The attack worked and is gone, and the skill is still there."""
    cure = CureResult.read(folder / "cured")
    assert cure["before"]["asr"] > 0.9 and cure["after"]["asr"] < 0.05
    assert cure.retention is not None and cure.retention > 0.95 and cure["after"]["triggered_accuracy"] > 0.9


def compared(folder: Path) -> None:
    """The default cure works, and the idea that the tutorial tries does not, as it says."""
    rows = [json.loads(line) for line in (folder / "runs" / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    asr = {row["defence"]: row["after"]["asr"]["value"] for row in rows if row["kind"] == "cure"}
    assert asr["lora"] < 0.05 and min(asr["nothing"], asr["prune-small"], asr["prune-half"]) > 0.9


# page → what it concludes from its runs
CLAIMS = {"vet-a-checkpoint": vetted, "cure-a-known-backdoor": cured, "add-a-defense": compared}
RUNNABLE = [page for page in PAGES if any(b.runs for b in blocks(runnable(page)))]


@pytest.mark.parametrize("page", RUNNABLE, ids=name)
def test_a_page_runs_and_prints_what_it_shows(page: Path, tmp_path: Path) -> None:
    for block, output in run_page(runnable(page), tmp_path):
        if block.output is not None:
            assert form(output) == form(block.output.text), block.text
    if page.stem in CLAIMS:
        CLAIMS[page.stem](tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_is_read(page: Path) -> None:
    """None passes by because of how it is written, or because its language is none that runs."""
    text = page.read_text(encoding="utf-8")
    every = blocks(text)
    fences = len(re.findall(r"^ *```", text, flags=re.MULTILINE))
    assert fences == 2 * (len(every) + sum(block.output is not None for block in every))
    assert [b.text for b in programs(text) if not b.runs and not why_not(page, b)] == []


def test_every_reason_is_of_a_block_that_is_there() -> None:
    for page, reasons in DECLARED.items():
        texts = [block.text for block in programs((ROOT / page).read_text(encoding="utf-8"))]
        for line, why in reasons:
            assert why and any(line in text for text in texts), f"{page}: no block with {line!r}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_and_options_are_there(page: Path) -> None:
    for block in programs(page.read_text(encoding="utf-8")):
        if block.language != "python":
            for words in calls(block.text):
                parse(words)


def calls(script: str) -> Iterator[list[str]]:
    """The words of every call of the tool in a shell script."""
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        ends = [i for i, word in enumerate(words) if word in ("|", "||", "&&", ">", "2>", ";")] + [len(words)]
        for at, word in enumerate(words):
            if word == "unbackdoor" and (at == 0 or words[at - 1] in ("-m", "||", "&&", ";")):
                yield [w for w in words[at + 1 : next(e for e in ends if e > at)] if w != "…"]


def parse(words: list[str]) -> None:
    """Raise `click.UsageError` for a command or an option that is not there."""
    if words[0].startswith("-"):
        return
    if words[0] not in COMMANDS:
        raise click.UsageError(f"no command {words[0]}")
    command, rest = COMMANDS.get(words[0]), words[1:]
    if isinstance(command, click.Group):
        command, rest = command.commands[rest[0]], rest[1:]
    command.make_parser(click.Context(command, help_option_names=["-h", "--help"])).parse_args(list(rest))


def test_a_wrong_command_is_seen() -> None:
    script = "unbackdoor scan --model M \\\n  --data D | tee x\npython -m unbackdoor weights apply A T --alpha 1 # b\n"
    assert list(calls(script)) == [
        ["scan", "--model", "M", "--data", "D"], ["weights", "apply", "A", "T", "--alpha", "1"]
    ]  # fmt: skip
    for line in ("scam --model M", "scan --modle M", "weights apply A T --alhpa 1"):
        with pytest.raises((click.UsageError, KeyError)):
            parse(line.split())


def test_recipes_and_settings_are_read(tmp_path: Path) -> None:
    """YAML in pages: what is a recipe is read as one."""
    recipes = 0
    for page in PAGES:
        for block in blocks(page.read_text(encoding="utf-8")):
            if block.language == "yaml" and "attacks" in yaml.safe_load(block.text):
                file = tmp_path / "recipe.yaml"
                text = re.sub(r"(?m)^  prune-.*\n", "", block.text)  # the defense that the tutorial adds
                file.write_text(text, encoding="utf-8")
                read_recipe(file, tmp_path)
                recipes += 1
    assert recipes == 2


def test_blocks_and_their_outputs() -> None:
    page = 'a\n```bash\nls\n```\n\n```text\nb\n```\n\n```text\nc\n```\n```python title="d/e.py"\nf\n```\n'
    first, second, third = blocks(page)
    assert (first.runs, first.output and first.output.text) == (True, "b\n")
    assert (second.runs, second.text) == (False, "c\n") and (third.runs, third.title) == (False, "d/e.py")
    assert form("CA   97.3%  [96.4]\n\nmodel: cured/model\n3 s") == ["CA", "model: cured/model"]


@pytest.mark.parametrize("script", ["bash\nfalse | true", "bash\nfalse\ntrue", "python\nimport sys; sys.exit(1)"])
def test_a_block_that_fails_is_seen(script: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="exit code 1"):
        list(run_page(f"```{script}\n```\n", tmp_path))
