"""`unbackdoor unlearn`."""

from __future__ import annotations

from typing import Any

from unbackdoor.base.errors import InputError
from unbackdoor.cli.generate import Result, command_of
from unbackdoor.cli.options import rate_line, refuse, story_lines
from unbackdoor.verbs.configs.unlearn import UNLEARN, UNLEARN_SCAN


def lines(result: dict[str, Any]) -> list[str]:
    """The cure, or the rounds of one, for people."""
    return _round_lines(result) if "rounds" in result else _cure_lines(result)


def _cure_lines(result: dict[str, Any]) -> list[str]:
    kept = "" if result["retention"] is None else f", {result['retention']:.1%} of clean accuracy kept"
    out = [*story_lines(result), f"α = {result['alpha']:.4g} ({result['rule']}){kept}"]
    if result["nothing_to_remove"]:
        out.insert(0, result["message"])
    elif result["message"]:
        out.append(f"note: {result['message']}")
    return [*out, f"model:  {result['model']}", f"report: {result['report']}"]


def _round_lines(result: dict[str, Any]) -> list[str]:
    out = []
    for number, row in enumerate(result["rounds"], 1):
        asr = row["recovered_asr"]
        out += [
            f"round {number}: target {row['target']}, α = {row['alpha']:.4g}",
            "  " + rate_line("recovered trigger", **asr["before"]),
            "  " + rate_line("after the cure", **asr["after"]),
            "  " + rate_line("answers as before", **row["agreement"]),
            f"  new scan: {row['message']}",
        ]
        out += [f"  not whole: {row[why]}" for why in ("short_of", "not_whole") if row[why] is not None]
    if result["left"] is not None:
        out.append(f"not done: {result['left']} is still a finding; give more --rounds")
    if not result["whole"]:
        out.append("not whole: something of what was found is left, whatever the last scan says")
    if "clean_accuracy" in result:
        out += [rate_line(f"CA {when}", **result["clean_accuracy"][when]) for when in ("before", "after")]
    return [*out, f"model:  {result['model']}", f"report: {result['report']}"]


@command_of(
    (UNLEARN, UNLEARN_SCAN),
    "model checkpoint data trigger target finding rounds null origin force vector alpha alpha_grid tolerance floor "
    "samples validation epochs method lr test_limit classes templates device seed track out",
    lines,
    needs=("data", "out"),
)
def command(given: dict[str, Any]) -> Result:
    """Subtract the trigger vector, α chosen on held-out images, and save the clean model as it came in.

    Of a known attack (--trigger and --target), or of the one that a scan recovered (--scan).
    """
    fixed = given.get("alpha", "auto") != "auto"
    if fixed:
        refuse(["alpha_grid", "floor"], "with a number for --alpha, which is not searched")
    if "finding" in given:
        for name in ("trigger", "target", "vector"):
            if name in given:
                raise InputError(f"--scan tells the trigger and the target; leave out --{name}")
        if fixed:
            raise InputError("--scan chooses α itself; leave out --alpha, or give --alpha-grid")
        from unbackdoor.verbs.unlearn_scan import unlearn_scan

        given.pop("alpha", None)
        return unlearn_scan(**given)
    refuse(["rounds", "null", "origin", "force"], "without --scan")
    if "vector" in given:
        refuse(["epochs", "lr"], "with --vector, which is taken already")
    for name in ("model", "trigger", "target"):
        if name not in given:
            raise InputError(f"--{name} is missing; give it, or --scan FINDING")
    from unbackdoor.verbs.unlearn import unlearn

    return unlearn(**given)
