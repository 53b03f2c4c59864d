"""What a stranger does on a bare machine: what the README's first screen says, and how long each step takes.

    python3 recipes/site/stranger.py --out FOLDER [--source REPOSITORY]

Copies what is committed, makes a new environment, and runs the README's own lines in it: install, poison the small
model, vet it, vet the clean one. Checks the exit codes and that page and SARIF lie there. Needs git and Python 3.10 or
later; nothing else of the caller's environment is used. Prints a table and writes `stranger.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

MOST_MINUTES = 8.0
KEPT = ("PATH", "LANG", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE")
INSTALL = "pip install ."
# How a line of the README begins → the exit code that is right, and what it leaves.
STEPS = {
    "unbackdoor poison": (0, ("suspect/model",)),
    "unbackdoor vet suspect": (1, ("vetted/result.json", "vetted/report.html", "vetted/vet.sarif")),
    "unbackdoor vet embedded": (0, ("vetted-clean/result.json", "vetted-clean/report.html", "vetted-clean/vet.sarif")),
}


def commands(readme: str) -> list[str]:
    """The lines of the README that this takes, in its order.

    Raises:
        ValueError: it has not each of them once.
    """
    scripts = re.findall(r"^```bash\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)
    lines = [line for script in scripts for line in script.replace("\\\n", " ").splitlines()]
    chosen = [line for line in lines if line.startswith((INSTALL, *STEPS))]
    if [line.startswith(start) for line, start in zip(chosen, (INSTALL, *STEPS), strict=False)] != [True] * 4:
        raise ValueError(f"the README's lines are not {', '.join((INSTALL, *STEPS))} in this order")
    return chosen


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
    # Not the caller's packages, settings or threads; where packages come from is the machine's.
    bare = {key: value for key, value in os.environ.items() if key in KEPT or key.startswith("PIP_")}
    bare.update(HOME=str(copy.parent), PATH=f"{copy / '.venv' / 'bin'}:{bare['PATH']}")
    rows: list[dict[str, Any]] = []
    for line in [f"{python} -m venv .venv", *commands((copy / "README.md").read_text(encoding="utf-8"))]:
        code, left = next((right for start, right in STEPS.items() if line.startswith(start)), (0, ()))
        began = time.perf_counter()
        done = subprocess.run(["bash", "-c", line], cwd=copy, env=bare, check=False)
        seconds = round(time.perf_counter() - began, 1)
        missing = [name for name in left if not (copy / name).exists()]
        right = done.returncode == code and not missing
        rows.append({"command": line, "exit": done.returncode, "seconds": seconds, "missing": missing, "right": right})
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
    minutes = sum(row["seconds"] for row in rows) / 60
    whole = len(rows) == 2 + len(STEPS) and all(row["right"] for row in rows)
    record = {"cores": os.cpu_count(), "minutes": round(minutes, 2), "whole": whole, "steps": rows}
    (args.out / "stranger.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print("\n| command | seconds | exit code |\n| --- | --- | --- |")
    for row in rows:
        print(f"| `{' '.join(row['command'].split()[:3])}` | {row['seconds']} | {row['exit']} |")
    print(f"\n{minutes:.1f} minutes on {os.cpu_count()} cores; {'all as it should be' if whole else 'NOT WHOLE'}")
    shutil.rmtree(copy / ".venv", ignore_errors=True)
    return 0 if whole and minutes < MOST_MINUTES else 1


if __name__ == "__main__":
    sys.exit(main())
