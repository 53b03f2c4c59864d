"""What a stranger does on a bare machine, by the README's first screen alone, and how long each step takes.

    python3 recipes/site/stranger.py --out FOLDER [--source REPOSITORY]

Copies what is committed, makes a new environment, installs, poisons the small model by the demo, and vets it and the
clean one. Checks the exit codes and that a page and a SARIF file lie there. Needs git and Python 3.10 or later; nothing
else of the caller's environment is used. Prints a table and writes `stranger.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MOST_MINUTES = 8.0
KEPT = ("PATH", "LANG", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE")
VET = ("vet", "--data", "embedded:scenes", "--format", "sarif", "--out")


@dataclass(frozen=True)
class Step:
    """One thing that a stranger types.

    Args:
        words: what it is for.
        command: the program and its arguments; paths are those of the copy.
        code: exit code that is right.
        counted: whether the time is the stranger's; the poisoned model comes from somebody else.
        left: files that lie there afterwards.
    """

    words: str
    command: tuple[str, ...]
    code: int = 0
    left: tuple[str, ...] = ()
    counted: bool = True


def steps(python: str) -> list[Step]:
    """Everything, in order; run in the copy."""
    binary = ".venv/bin/unbackdoor"
    return [
        Step("make an environment", (python, "-m", "venv", ".venv")),
        Step("install", (".venv/bin/python", "-m", "pip", "install", "--quiet", ".")),
        Step(
            "make a poisoned model",
            (binary, "demo", "--out", "demo-output"),
            left=("demo-output/report.html",),
            counted=False,
        ),
        *(
            Step(f"vet the {name} model", (binary, VET[0], model, *VET[1:], out), code, _outputs(out))
            for name, model, out, code in (
                ("poisoned", "demo-output/suspect", "vetted", 1),
                ("clean", "embedded", "vetted-clean", 0),
            )
        ),
    ]


def _outputs(out: str) -> tuple[str, ...]:
    return tuple(f"{out}/{name}" for name in ("result.json", "report.html", "vet.sarif"))


def copied(source: Path, out: Path) -> Path:
    """What is committed in `source`, in a new folder."""
    copy = out / "copy"
    copy.mkdir(parents=True)
    packed = out / "copy.tar"
    subprocess.run(["git", "-C", str(source), "archive", "--output", str(packed), "HEAD"], check=True)
    with tarfile.open(packed) as tar:
        tar.extractall(copy, filter="data")
    packed.unlink()
    return copy


def walked(copy: Path, python: str) -> list[dict[str, Any]]:
    """Take every step; seconds, exit code and what is missing of each."""
    rows: list[dict[str, Any]] = []
    # Not the caller's packages, settings or threads; where packages come from is the machine's.
    bare = {key: value for key, value in os.environ.items() if key in KEPT or key.startswith("PIP_")}
    for step in steps(python):
        began = time.perf_counter()
        done = subprocess.run(step.command, cwd=copy, env={**bare, "HOME": str(copy.parent)}, check=False)
        seconds = round(time.perf_counter() - began, 1)
        missing = [name for name in step.left if not (copy / name).is_file()]
        right = done.returncode == step.code and not missing
        rows.append({**asdict(step), "exit": done.returncode, "seconds": seconds, "missing": missing, "right": right})
        if not right:
            break
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="a new folder; it is not removed")
    parser.add_argument("--source", type=Path, default=Path(__file__).parents[2])
    parser.add_argument("--python", default=sys.executable)
    args = parser.parse_args()
    if args.out.exists() and any(args.out.iterdir()):
        print(f"{args.out} is not empty; name a new folder", file=sys.stderr)
        return 2
    copy = copied(args.source, args.out.resolve())
    rows = walked(copy, args.python)
    minutes, all_minutes = (sum(row["seconds"] for row in rows if row["counted"] or every) / 60 for every in (0, 1))
    whole = len(rows) == len(steps(args.python)) and all(row["right"] for row in rows)
    record = {
        "cores": os.cpu_count(),
        "minutes": round(minutes, 2),
        "all_minutes": round(all_minutes, 2),
        "whole": whole,
        "steps": rows,
    }
    (args.out / "stranger.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print("\n| step | seconds | exit code |\n| --- | --- | --- |")
    for row in rows:
        print(f"| {row['words']} | {row['seconds']} | {row['exit']} |")
    print(f"\n{minutes:.1f} minutes on {os.cpu_count()} cores, {all_minutes:.1f} with the poisoned model; ", end="")
    print("all as it should be" if whole else "NOT WHOLE")
    shutil.rmtree(copy / ".venv", ignore_errors=True)
    return 0 if whole and minutes < MOST_MINUTES else 1


if __name__ == "__main__":
    sys.exit(main())
