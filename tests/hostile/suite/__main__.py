"""All hostile inputs on the command line: see `runner`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.hostile.suite import entries
from tests.hostile.suite.runner import server


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the command line on hostile inputs.")
    parser.add_argument("--only", default="", help="those whose name holds this text")
    parser.add_argument("-v", action="store_true", help="what each printed")
    options = parser.parse_args()
    chosen = [entry for entry in entries() if options.only in entry.name]
    bad, peak, slowest, began = [], 0, 0.0, time.monotonic()
    with server() as own:
        for entry in chosen:
            with tempfile.TemporaryDirectory(prefix="hostile-") as room:
                outcome = own.run(entry, Path(room))
            peak, slowest = max(peak, outcome.peak), max(slowest, outcome.seconds)
            word = "ok  " if not outcome.faults else "FAIL"
            print(
                f"{word} {entry.name:44} code {outcome.code} {outcome.seconds:5.1f} s {outcome.peak / 2**20:6.0f} MiB"
            )
            if outcome.faults:
                bad.append(entry.name)
                print("     " + "; ".join(outcome.faults))
            if options.v or outcome.faults:
                print("     " + (outcome.err.strip() or outcome.out.strip())[-600:].replace("\n", "\n     "))
    print(
        f"{len(chosen)} hostile inputs, {len(bad)} failed; largest memory {peak / 2**20:.0f} MiB, "
        f"slowest {slowest:.1f} s, {time.monotonic() - began:.0f} s in all"
    )
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
