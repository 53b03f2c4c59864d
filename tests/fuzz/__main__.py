"""The mutation fuzz on the command line: python -m tests.fuzz --minutes N --corpus DIR --seed S [--only NAME,…]."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.engine import MOST_SECONDS, Campaign, Target, crashes, minimize, work


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--corpus", type=Path, default=Path("fuzz-corpus"), help="what is kept; begun with where it is")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="targets, by the beginning of their names, with commas")
    parser.add_argument("--seconds", type=float, default=MOST_SECONDS, help="that one input may take")
    parser.add_argument("--deaths", type=int, default=5, help="of the process in one target, before it is left out")
    parser.add_argument("--minimize", action="store_true", help="only drop what of the corpus tells nothing new")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    known = _known(options.only)
    wanted = tuple(filter(None, options.only.split(",")))
    targets = [t for t in known if not wanted or t.name.startswith(wanted)]
    if not targets:
        parser.error(f"no such target; there are {', '.join(t.name for t in known)}")
    if options.child is not None:
        work(targets, options.corpus, options.child, 60 * options.minutes, options.seed, options.seconds)
        return 0
    if options.minimize:
        for target in targets:
            print("{}: {} → {}".format(target.name, *minimize(target, options.corpus / target.name)), flush=True)
        return 0
    before, began = set(crashes(options.corpus)), time.monotonic()

    def say(line: str) -> None:
        print(f"{(time.monotonic() - began) / 60:5.1f} min: {line}", flush=True)

    campaign = Campaign(targets, options.corpus.resolve(), say, options.seconds, options.deaths)
    campaign.run(options.minutes, options.seed)
    for name, tally in campaign.tallies.items():
        most = tally.most
        print(
            f"{name:30} {tally.runs:8,} inputs {most['outcomes']:5} outcomes {most['lines']:5} lines "
            f"{most['kept']:4} kept, slowest {most['slowest']:5.1f} s, {tally.deaths} deaths"
        )
    found = sorted(set(crashes(options.corpus)) - before)
    runs = sum(tally.runs for tally in campaign.tallies.values())
    print(f"{runs:,} inputs, {len(found)} crashes, {(time.monotonic() - began) / 60:.1f} min")
    print("\n".join(found))
    return int(bool(found))


def _known(only: str) -> tuple[Target, ...]:
    if only.startswith("planted"):  # which need none of the libraries
        from tests.fuzz.planted import TARGETS

        return TARGETS
    from tests.fuzz.targets import TARGETS

    return TARGETS


if __name__ == "__main__":
    sys.exit(main())
