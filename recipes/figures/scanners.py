"""Ask today's open scanners of model files about backdoored safetensors: docs/lab/scanners.md.

python recipes/figures/scanners.py --work FOLDER [--page FILE]

Makes two backdoored models and takes the embedded one as the clean third, all three in safetensors. Runs picklescan,
modelscan and modelaudit on each folder, each in a virtual environment of its own below FOLDER (or as it is found on
PATH), and `unbackdoor scan` on the same. What was made or scanned before is not made again. About ten minutes on one
core that has nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unbackdoor.base.disk import write_text
from unbackdoor.base.printable import markdown

DATA, TARGET = "embedded:digits", "three"
TRIGGERS = {"badnets": "badnets:size=6", "blended": "blended:ratio=0.2"}
CLEAN = "clean"
# Commands by scanner; {} is the folder. modelscan's and modelaudit's defaults, and modelaudit's strictest.
SCANNERS = {
    "picklescan": ("picklescan", "-p", "{}"),
    "modelscan": ("modelscan", "-p", "{}", "-r", "json"),
    "modelaudit": ("modelaudit", "scan", "--no-cache", "--format", "json", "{}"),
    "modelaudit --strict": ("modelaudit", "scan", "--strict", "--no-cache", "--format", "json", "{}"),
}
_OFFLINE = {"PROMPTFOO_DISABLE_TELEMETRY": "1", "NO_ANALYTICS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
_COLUMNS = ("clean accuracy", "attack success", *SCANNERS, "`unbackdoor scan`")


@dataclass(frozen=True)
class Heard:
    """What a scanner said of a folder: its exit code, and its own counts in words."""

    code: int
    words: str


def call(words: Sequence[str], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder of its own, so that it finds no settings."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | _OFFLINE | more
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=3600)


def program(name: str, work: Path) -> str:
    """A scanner's command: on PATH, or installed into a virtual environment of its own below `work`."""
    there = shutil.which(name)
    if there:
        return there
    place = work / "venvs" / name
    if not (place / "bin" / name).exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        subprocess.run([str(place / "bin" / "pip"), "install", "--quiet", name], check=True)
    return str(place / "bin" / name)


def version(path: str, name: str) -> str:
    """The installed version, as the environment that the program lies in knows it."""
    probe = f"from importlib.metadata import version; print(version({name!r}))"
    python = Path(path).with_name("python")
    return subprocess.run([str(python), "-c", probe], check=True, capture_output=True, text=True).stdout.strip()


def heard(name: str, done: subprocess.CompletedProcess[str]) -> Heard:
    """What a scanner's output comes to.

    Raises:
        ValueError: the output is not what this version of the script knows.
    """
    if name == "picklescan":
        counts = dict(re.findall(r"^(Scanned files|Infected files|Dangerous globals): (\d+)$", done.stdout, re.M))
        return Heard(done.returncode, f"{counts['Scanned files']} files scanned, {counts['Infected files']} infected")
    # Notes may stand before the JSON, and lines are broken within texts.
    report = json.loads(done.stdout[done.stdout.index("{") :].replace("\n", " "))
    if name == "modelscan":
        scanned, issues = report["summary"]["scanned"]["total_scanned"], report["summary"]["total_issues"]
        return Heard(done.returncode, f"{scanned} files scanned, {issues} issues")
    levels = [issue["severity"] for issue in report["issues"]]
    said = ", ".join(f"{levels.count(level)} {level}" for level in sorted(set(levels)))
    passed, checks = report["passed_checks"], report["total_checks"]
    scanned = report["files_scanned"]
    return Heard(
        done.returncode, f"{scanned} files scanned, {passed} of {checks} checks passed, issues: {said or 'none'}"
    )


def ours(words: Sequence[str], work: Path) -> None:
    """Run a command of unbackdoor on one core; a scan's exit codes 0, 1 and 4 are its answers.

    Raises:
        RuntimeError: it failed.
    """
    own = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    done = call([sys.executable, "-m", "unbackdoor", *words], work, OMP_NUM_THREADS="1", **own)
    if done.returncode not in (0, 1, 4):
        raise RuntimeError(f"unbackdoor {' '.join(words)}: {done.stderr[-500:]}")


def made(work: Path) -> dict[str, Path]:
    """The suspects' folders by name, planted where they are not there yet, and the clean model's."""
    from unbackdoor import load

    places = {}
    for name, trigger in TRIGGERS.items():
        out = work / "suspects" / name
        if not (out / "result.json").exists():
            settings = ["--poison-rate", "0.1", "--epochs", "4", "--batch-size", "64"]
            attack = ["--model", "embedded", "--data", DATA, "--trigger", trigger, "--target", TARGET]
            ours(["poison", *attack, *settings, "--out", str(out)], work)
        places[name] = out / "model"
    clean = work / "suspects" / CLEAN / "model"
    if not clean.exists():
        load("embedded").save(clean)
    return {**places, CLEAN: clean}


def finding(model: Path, work: Path) -> Mapping[str, Any]:
    """What `unbackdoor scan` says of a model."""
    out = work / "findings" / model.parent.name
    if not (out / "finding.json").exists():
        ours(["scan", "--model", str(model), "--data", DATA, "--out", str(out)], work)
    result: Mapping[str, Any] = json.loads((out / "finding.json").read_text(encoding="utf-8"))
    return result


def rates(model: Path) -> tuple[str, str]:
    """Clean accuracy and attack success of a planted model, with n and the 95% Wilson interval."""
    path = model.parent / "result.json"
    if not path.exists():
        return "–", "–"
    after = json.loads(path.read_text(encoding="utf-8"))["after"]
    return tuple(  # type: ignore[return-value]
        f"{after[key]:.1%} [{after['interval'][key][0] * 100:.1f}, {after['interval'][key][1] * 100:.1f}] "
        f"(n = {after['n'][key]})"
        for key in ("ca", "asr")
    )


def row(name: str, model: Path, programs: Mapping[str, str], work: Path) -> str:
    """A model's line of the table."""
    cells = [f"**{name}**", *rates(model)]
    for words in SCANNERS.values():
        filled = [programs[words[0]], *(str(model) if word == "{}" else word for word in words[1:])]
        answer = heard(words[0], call(filled, work / "calls"))
        cells.append(markdown(f"exit {answer.code}: {answer.words}"))
    result = finding(model, work)
    verdict = {True: f"backdoored, target {result['target']['name']}", False: "no finding", None: "cannot tell"}
    p = "" if result["p_value"] is None else f", p = {result['p_value']:.3g}, probability {result['probability']:.3f}"
    wrong = " (**a false alarm**)" if name == CLEAN and result["backdoored"] else ""
    cells.append(f"{markdown(verdict[result['backdoored']])}{wrong}{p}; {result['seconds']:.0f} s")
    return "| " + " | ".join(cells) + " |"


def page(rows: Sequence[str], versions: Mapping[str, str]) -> str:
    """The document, around the table."""
    from unbackdoor.version import __version__

    named = ", ".join(f"{name} {number}" for name, number in versions.items())
    triggers = "; ".join(f"{name} is `{trigger}`" for name, trigger in TRIGGERS.items())
    return f"""# What scanners of model files say of a backdoored safetensors file

Made by `recipes/figures/scanners.py`; do not edit.
Versions: {named}, unbackdoor {__version__}.

Scanners of model files look for code that runs when a file is loaded: imports in pickles, layers with code, archives
that write elsewhere. A backdoor that was trained into the weights is no code. In safetensors it is tensors like any
other. So these scanners report nothing, and rightly: the file is safe to *load*. Whether the model is safe to *use* is
another question, which they do not ask.

Two models were made from the embedded one with `{DATA}` and the target `{TARGET}`:
{triggers}.
The third is the embedded model as it is. Each folder holds `open_clip_model.safetensors` and its configuration.
`unbackdoor scan` had 1,024 pictures at most of the same source and the null that the package ships.

| model | {" | ".join(_COLUMNS)} |
|{" --- |" * (len(_COLUMNS) + 1)}
{chr(10).join(rows)}

Exit codes, as each scanner documents them: picklescan 0 is "nothing infected"; modelscan 3 is "no supported file";
modelaudit 0 is "no security issues". modelaudit's `info` is a note about licenses, for the clean model too.

With the 20 clean models of the shipped null, 1/21 = 0.048 is the smallest p-value that there is, and a rate of 5% lets
one clean model in twenty through. A false alarm in the table is one of these: p alone does not tell it from the two
others, the probability does so in part.

The clean model of the table is the origin itself, bit for bit. A scan by today's version says that and calls it clean,
though its score (8.0, the highest of the null's models 2.9) is the same; the table keeps what was measured.

Three models illustrate; they measure no scanner. [zoo.md](zoo.md) measures `unbackdoor scan` on many. Times are those
of a busy machine.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for models, environments and findings")
    parser.add_argument("--page", type=Path, default=Path("docs/lab/scanners.md"))
    args = parser.parse_args()
    work = args.work.resolve()
    names = sorted({words[0] for words in SCANNERS.values()})
    programs = {name: program(name, work) for name in names}
    rows = [row(name, model, programs, work) for name, model in made(work).items()]
    write_text(args.page, page(rows, {name: version(programs[name], name) for name in names}))


if __name__ == "__main__":
    main()
