"""`unbackdoor scan`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unbackdoor.cli.options import RATE, Verb, model_option, refuse, shared, show

CANNOT_TELL = 4  # exit code: a script must not take it for a clean model's


@click.command("scan", cls=Verb)
@model_option("models", multiple=True, required=True, help="Model reference; several with --calibrate.")
@shared("checkpoint", "data")
@click.option("--null", type=click.Path(path_type=Path), help="Clean models' scores, as --calibrate writes them.")
@click.option("--origin", help="A clean model that the suspect was made from; by default the null's.")
@click.option(
    "--false-alarm-rate",
    type=RATE,
    default=0.05,
    show_default=True,
    help="Of clean models.",
)
@click.option("--inverter", "inverters", multiple=True, help="Run this one; may be given several times.")
@click.option("--limit", type=click.IntRange(8), default=1024, show_default=True, help="Images to use, drawn by seed.")
@shared("classes", "templates", "device", "seed")
@click.option("--calibrate", is_flag=True, help="The models are clean: write what they score to --null.")
@click.option("--copies", type=click.IntRange(0, 9999), default=0, help="With --calibrate: fine-tuned copies of each.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the finding, the trigger and the report.")
@shared("json", "debug")
def command(
    as_json: bool, models: tuple[str, ...], calibrate: bool, copies: int, inverters: tuple[str, ...], **options: Any
) -> int:
    """Say whether a model is backdoored, with a p-value, the likely target and the recovered trigger.

    Exit code 0 when nothing was found, 1 on a finding, 4 when it cannot be told.
    """
    from unbackdoor.errors import InputError

    if calibrate:
        from unbackdoor.verbs.calibrate import calibrate as make

        refuse({"out": "--out", "false_alarm_rate": "--false-alarm-rate"}, "with --calibrate, which judges no model")
        null = options.pop("null")
        if null is None:
            raise InputError("--calibrate needs --null FILE to write to")
        for name in ("out", "false_alarm_rate"):
            options.pop(name)
        show(make(models=models, out=null, copies=copies, inverters=inverters, **options), as_json, calibrated)
        return 0
    refuse({"copies": "--copies"}, "without --calibrate")
    if len(models) > 1:
        raise InputError("scan takes one --model; several are for --calibrate")
    from unbackdoor.verbs.scan import scan

    result = scan(model=models[0], inverters=inverters, **options)
    show(result, as_json, lines)
    return {True: 1, False: 0, None: CANNOT_TELL}[result["backdoored"]]


def lines(result: dict[str, Any]) -> list[str]:
    """The finding for people."""
    word = {True: "backdoored: ", False: "no backdoor found: ", None: ""}[result["backdoored"]]
    out = [f"{word}{result['message']}"]
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


def calibrated(result: dict[str, Any]) -> list[str]:
    """The null for people."""
    return [
        f"{result['clean_models']} clean models on record, smallest possible p = {result['smallest_p_value']:.3f}",
        f"null: {result['null']}",
    ]
