"""Render docs/lab/rates.md: how the rivals' learning rates were chosen for the core grid.

python recipes/figures/rates.py --data-root PATH --runs FOLDER
"""

from __future__ import annotations

import statistics

from grid import NAMES, ROOT, Row, every_cure, reader, spread, table

from unbackdoor.base.disk import write_text

HEAD = """\
# The rivals' learning rates

Made by `python recipes/figures/rates.py --data-root PATH --runs FOLDER` from what `bench` left; what it means
stands in [results](results.md#how-the-rivals-rates-were-chosen). BadNets, a seed of their own; then the best two
on all six attacks. Rates in per cent with 95% Wilson intervals. Excess is the mean of ASR plus what CA lacks to
95% of the suspect's.
"""


def excess(rows: list[Row]) -> list[str]:
    """Mean over attacks of ASR plus what CA lacks to 95% of the suspect's, by which rates are chosen."""
    cells: dict[tuple[str, str], list[Row]] = {}
    for r in rows:
        if r["kind"] == "cure":
            cells.setdefault((r["data"], r["defence"]), []).append(r)
    body = []
    for (data, name), own in cells.items():
        asr = [100 * r["after"]["asr"]["value"] for r in own]
        lack = [100 * max(0.0, 0.95 * r["before"]["ca"]["value"] - r["after"]["ca"]["value"]) for r in own]
        kept = [100 * r["retention"] for r in own]
        rates = ", ".join(sorted({f"{r['lr']:g}" for r in own}))
        total = statistics.fmean(a + b for a, b in zip(asr, lack, strict=True))
        body.append((NAMES[data], name, rates, len(own), spread(asr), spread(kept), f"{total:.1f}"))
    return table(("data", "defence", "learning rate", "suspects", "ASR", "retention", "excess"), body)


def main() -> None:
    assert __doc__ is not None
    read = reader(__doc__)
    lines = HEAD.split("\n")
    for name in ("rates", "rates-gtsrb", "rates-tiny-imagenet", "rates-attacks"):
        found = read(name)
        lines += [f"## `recipes/bench/{name}.yaml`", ""]
        lines += [f"{len(found.rows)} of {len(found.rows) + len(found.missing)} cells finished.", ""]
        lines += excess(found.rows)
        if name != "rates-attacks":
            lines += every_cure(found.rows)
    write_text(ROOT / "docs" / "lab" / "rates.md", "\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
