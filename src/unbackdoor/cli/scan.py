"""`unbackdoor scan`."""

from __future__ import annotations

from typing import Any

from unbackdoor.base.errors import InputError
from unbackdoor.cli.generate import Result, command_of
from unbackdoor.cli.options import refuse
from unbackdoor.verbs.configs.scan import CALIBRATE, SCAN

CANNOT_TELL = 4  # exit code: a script must not take it for a clean model's


def lines(result: dict[str, Any]) -> list[str]:
    """The finding, or the null, for people."""
    return _null_lines(result) if "null" in result else _finding_lines(result)


def _finding_lines(result: dict[str, Any]) -> list[str]:
    word = {True: "backdoored: ", False: "no backdoor found: ", None: ""}[result["backdoored"]]
    out = [f"{word}{result['message']}"]
    if result.get("probability") is not None:
        out.append(f"probability of a backdoor, had one model in two one: {result['probability']:.1%}")
    if result.get("compared_with") == "relatives":
        out.append(f"against: {result['clean_models']} clean relatives, made from {result['origin']} on these pictures")
    target, trigger = result["target"], result["trigger"]
    strength = trigger["strength"]
    share = "–" if strength["value"] is None else f"{strength['value']:.1%} of {strength['n']} held-out images"
    how = f"by {trigger['inverter']}, norm {trigger['norm']:.4g}, turns {share}"
    if result["backdoored"]:
        out += [f"target:  {target['name']} (confidence {target['confidence']:.0%})", f"trigger: {how}"]
    else:
        out.append(f"no finding; the strongest candidate was {target['name']}, {how}")
    twin = result["twin_agreement"]
    if twin is not None:
        out.append(f"twin:    of {result['origin']}, answers {twin['value']:.1%} of {twin['n']} held-out images alike")
    for row in result["others"]:
        out.append(f"also:    {row['target']} stands out by itself (p = {row['p_value']:.3f}, by {row['inverter']})")
    for row in result["inverters"]:
        excess = "" if row["excess"] is None else f", {row['excess']:+.1f} steps against clean models"
        out.append(f"  {row['name']:<9} {row['statistic']:7.2f}{excess}  → {row['target']}")
    if "report" in result:
        out += [f"{'picture' if result['backdoored'] else 'candidate'}: {trigger['picture']}"]
        out += [f"report:  {result['report']}"]
    return out


def _null_lines(result: dict[str, Any]) -> list[str]:
    return [
        f"{result['clean_models']} clean models on record, smallest possible p = {result['smallest_p_value']:.3f}",
        f"null: {result['null']}",
    ]


def exit_code(result: Result) -> int:
    """0 for what is clean, and for a null that was made; 1 on a finding."""
    return {True: 1, False: 0, None: CANNOT_TELL}[result.get("backdoored", False)]


@command_of(
    (SCAN, CALIBRATE),
    "models checkpoint data null origin relatives budget false_alarm_rate inverters limit classes templates device "
    "seed calibrate copies track out",
    lines,
    needs=("models", "data"),
    code=exit_code,
)
def command(given: dict[str, Any]) -> Result:
    """Say whether a model is backdoored, with a p-value, the likely target and the recovered trigger.

    Exit code 0 when nothing was found, 1 on a finding, 4 when it cannot be told.
    """
    if given.pop("calibrate", False):
        refuse(["out", "false_alarm_rate", "relatives", "budget"], "with --calibrate, which judges no model")
        if "null" not in given:
            raise InputError("--calibrate needs --null FILE to write to")
        from unbackdoor.verbs.calibrate import calibrate

        return calibrate(out=given.pop("null"), **given)
    refuse(["copies"], "without --calibrate")
    model, *others = given.pop("models")
    if others:
        raise InputError("scan takes one --model; several are for --calibrate")
    from unbackdoor.verbs.scan import scan

    return scan(model=model, **given)
