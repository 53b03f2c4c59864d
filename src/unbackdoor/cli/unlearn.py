"""`unbackdoor unlearn`."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from unbackdoor.cli.options import Number, Verb, model_option, rate_line, refuse, shared, show, story_lines


@click.command("unlearn", cls=Verb)
@model_option(help="Model reference; with --scan, the scanned one unless given.")
@shared("checkpoint", "data")
@click.option("--trigger", help="Trigger spec, such as badnets:size=16; @FILE reads one.")
@click.option("--target", help="Name of the class that the attacker wants.")
@click.option("--scan", "finding", type=click.Path(path_type=Path), help="Cure what this finding of scan tells.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="With --scan: cures at most.")
@click.option("--null", type=click.Path(path_type=Path), help="With --scan: clean models' scores, as for scan.")
@click.option("--origin", help="With --scan: a clean model that the suspect was made from, as for scan.")
@click.option("--force", is_flag=True, help="With --scan: cure although the finding is not a clear one.")
@click.option("--vector", type=click.Path(path_type=Path), help="Vector file; taken now when not given.")
@click.option("--alpha", default="auto", show_default=True, help="auto, or the coefficient to subtract with.")
@click.option("--alpha-grid", help="Values for the search, such as 0.5,1,2; by default it finds its own.")
@click.option(
    "--tolerance",
    type=Number(0, 1, below=True),
    default=0.005,
    show_default=True,
    help="Largest ASR that counts as cured.",
)
@click.option(
    "--floor",
    type=Number(0, 1, above=True),
    help="Share of the suspect's CA to keep, of its answers with --scan; without labelled images for choosing α at "
    "most 0.8 of its answers.  [default: 0.95, 0.88 with --scan]",
)
@shared("samples")
@click.option(
    "--validation",
    type=click.IntRange(0),
    help="Labelled images for choosing α, unlabelled with --scan; 0: the triggered ones, unlabelled.  [default: 0 "
    "lora and distilled, 512 otherwise and with --scan]",
)
@click.option("--epochs", type=click.IntRange(1), help="Passes over the triggered images.")
@shared("method", "lr", "test_limit", "classes", "templates", "device", "seed")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Output folder.")
@shared("json", "debug")
def command(
    as_json: bool, alpha: str, alpha_grid: str | None, tolerance: float, floor: float | None, **options: Any
) -> None:
    """Subtract the trigger vector, α chosen on held-out images, and save the clean model as it came in.

    Of a known attack (--trigger and --target), or of the one that a scan recovered (--scan).
    """
    from unbackdoor.errors import InputError
    from unbackdoor.unlearning.alpha import BLIND, AlphaConfig, parse_grid

    if alpha != "auto":
        try:
            finite = math.isfinite(float(alpha))
        except ValueError:
            finite = False
        if not finite:
            raise InputError(f"--alpha {alpha!r} is neither auto nor a number")
        refuse({"alpha_grid": "--alpha-grid", "floor": "--floor"}, "with a number for --alpha, which is not searched")
    if options["method"] is None:
        del options["method"]
    grid = None if alpha_grid is None else parse_grid(alpha_grid)
    scanned = {name: options.pop(name) for name in ("finding", "rounds", "null", "origin", "force")}
    rule = AlphaConfig() if scanned["finding"] is None else BLIND
    rule = replace(rule, tolerance=tolerance, grid=grid, floor=rule.floor if floor is None else floor)
    if scanned["finding"] is not None:
        for name in ("trigger", "target", "vector"):
            if options.pop(name) is not None:
                raise InputError(f"--scan tells the trigger and the target; leave out --{name}")
        if alpha != "auto":
            raise InputError("--scan chooses α itself; leave out --alpha, or give --alpha-grid")
        from unbackdoor.verbs.unlearn_scan import unlearn_scan

        show(unlearn_scan(alpha_config=rule, **scanned, **options), as_json, round_lines)
        return
    from unbackdoor.verbs.unlearn import unlearn

    options_of_scan = {name: f"--{name}" for name in ("rounds", "null", "origin", "force")}
    refuse(options_of_scan, "without --scan")
    if options["vector"] is not None:
        refuse({"epochs": "--epochs", "lr": "--lr"}, "with --vector, which is taken already")
    for name in ("model", "trigger", "target"):
        if options[name] is None:
            raise InputError(f"--{name} is missing; give it, or --scan FINDING")
    show(unlearn(alpha=alpha, alpha_config=rule, **options), as_json, lines)


def lines(result: dict[str, Any]) -> list[str]:
    """The cure for people."""
    kept = "" if result["retention"] is None else f", {result['retention']:.1%} of clean accuracy kept"
    out = [*story_lines(result), f"α = {result['alpha']:.4g} ({result['rule']}){kept}"]
    if result["nothing_to_remove"]:
        out.insert(0, result["message"])
    elif result["message"]:
        out.append(f"note: {result['message']}")
    return [*out, f"model:  {result['model']}", f"report: {result['report']}"]


def round_lines(result: dict[str, Any]) -> list[str]:
    """The rounds for people."""
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
        if row["short_of"] is not None:
            out.append(f"  not whole: {row['short_of']}")
    if result["left"] is not None:
        out.append(f"not done: {result['left']} is still a finding; give more --rounds")
    if "clean_accuracy" in result:
        out += [rate_line(f"CA {when}", **result["clean_accuracy"][when]) for when in ("before", "after")]
    return [*out, f"model:  {result['model']}", f"report: {result['rounds'][-1]['report']}"]
