"""Write docs/reference/models.md: `python -m tests.towers --out docs/reference/models.md`.

Full-size rows take gigabytes and minutes each: `--full` runs those named in `FULL_SIZE`, or with `--only` any.
Rows that are finished stay in the journal as long as neither the sources nor the libraries change.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.towers.families import FULL_SIZE, TOWERS, key
from tests.towers.page import page
from tests.towers.rows import ROOT, rows, versions
from tests.towers.steps import STEPS
from unbackdoor.base.disk import write_text


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.towers", description="The tower matrix.")
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--steps", default=",".join(STEPS), help="columns, separated by commas")
    parser.add_argument("--full", action="store_true", help="full-size models as well")
    parser.add_argument("--out", type=Path, help="the page; without it, only what came of each row is told")
    parser.add_argument("--journal", type=Path, default=ROOT / "build" / "towers.jsonl", help="of finished rows")
    options = parser.parse_args()
    chosen = [t for t in TOWERS if options.only in key(t)]
    steps = [step for step in STEPS if step in options.steps.split(",")]
    small = rows(chosen, steps, options.journal)
    large = [t for t in chosen if options.only or key(t) in FULL_SIZE] if options.full else []
    full = rows(large, steps, options.journal, full=True)
    faults = [f"{row.name}{' (full size)' * row.full}: {fault}" for row in (*small, *full) for fault in row.failed]
    print("\n".join(faults) or f"{len(small)} rows shrunken, {len(full)} in full size, no fault")
    if options.out and not faults:
        command = f"python -m tests.towers{' --full' * options.full} --out docs/reference/models.md"
        write_text(options.out, page(small, full, TOWERS, versions(), command))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
