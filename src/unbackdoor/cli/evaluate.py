"""`unbackdoor evaluate`."""

from __future__ import annotations

from typing import Any

import click

from unbackdoor.cli.options import RATE_NAMES, Verb, rate_line, refuse, retrieval_lines, shared, show


@click.command("evaluate", cls=Verb)
@shared("model", "checkpoint", "data")
@click.option("--trigger", help="Trigger spec; with --target, ASR and triggered accuracy are measured too.")
@click.option("--target", help="Name of the class that the attacker wants.")
@click.option(
    "--counting",
    type=click.Choice(["standard", "cleanclip", "par"]),
    default="standard",
    show_default=True,
    help="How ASR is counted; the others reproduce those papers' code.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32"]),
    default="auto",
    show_default=True,
    help="auto: bfloat16 where that is faster, float32 wherever it could change an answer.",
)
@click.option("--retrieval", is_flag=True, help="Also measure R@1/5/10 between images and their captions.")
@shared("limit", "classes", "templates", "device", "seed", "json", "debug")
def command(as_json: bool, **options: Any) -> None:
    """Measure clean accuracy, attack success rate and triggered accuracy, each with n and a 95% interval."""
    from unbackdoor.verbs.evaluate import evaluate

    if options["trigger"] is None and options["target"] is None:
        refuse({"counting": "--counting"}, "without --trigger")
    show(evaluate(**options), as_json, lines)


def lines(result: dict[str, Any]) -> list[str]:
    """The rates for people."""
    rows = ((label, result[key]) for key, label in RATE_NAMES.items() if key in result)
    out = [rate_line(label, row["value"], row["n"], row["interval"]) for label, row in rows]
    out += retrieval_lines(result)
    if result["skipped"]:
        out.append(f"{result['skipped']} unreadable images were skipped")
    return out
