"""`unbackdoor info`."""

from __future__ import annotations

from typing import Any

import click

from unbackdoor.cli.options import Verb, allow_outside_option, model_option, refuse, shared, show


@click.command("info", cls=Verb)
@model_option(help="Model reference or output folder.")
@shared("checkpoint")
@click.option("--data", help="Data source.")
@allow_outside_option
@click.option("--classes", help="Class names: a file, or a standard set such as cifar10.")
@click.option("--trigger", help="Trigger spec.")
@shared("json", "debug")
def command(as_json: bool, **options: Any) -> None:
    """Describe a model, a data source or a trigger."""
    from unbackdoor.verbs.info import info

    if options["model"] is None:
        refuse({"checkpoint": "--checkpoint"}, "without --model")
    if options["data"] is None:
        refuse({"classes": "--classes"}, "without --data")
    show(info(**options), as_json, lines)


def lines(result: dict[str, Any]) -> list[str]:
    """One line per fact; long lists and tables are cut short for people."""
    out = []
    for key, value in result.items():
        if isinstance(value, list | tuple | dict) and len(value) > 12:
            head = list(value.items() if isinstance(value, dict) else value)[:12]
            out.append(f"{key}: {len(value)} entries, first {head}")
        else:
            out.append(f"{key}: {value}")
    return out
