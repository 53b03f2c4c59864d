"""`unbackdoor vet`."""

from __future__ import annotations

from typing import Any

import click

from unbackdoor.base.errors import InputError
from unbackdoor.cli.generate import Result, command_of
from unbackdoor.verbs.configs.vet import VET

_ROLES = {"weights": "file:", "adapter": "adapter:", "base": "base:", "configuration": "config:", "code": "code:"}
_WORDS = {0: "passes", 1: "fails", 2: "bad input", 3: "internal error", 4: "cannot tell"}


def lines(result: dict[str, Any]) -> list[str]:
    """The verdict for people; or, where one format is asked for and no folder, its text."""
    wanted = _on_stdout()
    if wanted is not None:
        return _format(wanted, result)
    models = result["models"]
    out = _model_lines(models[0]) if len(models) == 1 else [_table_line(row) for row in models] + [result["sentence"]]
    if "report" in result:
        out += [f"{name}: {path}" for name, paths in result["outputs"].items() for path in paths[:3]]
        out.append(f"report: {result['report']}")
    return out


def _model_lines(row: dict[str, Any]) -> list[str]:
    out = [row["sentence"]]
    facts = row["model_facts"]
    if facts is not None:
        out.append(f"model:   {facts['architecture']} ({facts['kind']}), {facts['parameters']:,} parameters")
    for file in row["files"]:
        out.append(f"{_ROLES[file['role']]:<9}{file['path']} ({file['format']}, {file['bytes']:,} bytes)")
        out.append(f"  sha256 {file['sha256']}")
        if file["unsafe"] is not None:
            out.append(f"  {file['unsafe']}")
    if row["scan"] is not None and row["scan"]["backdoored"]:
        share = row["scan"]["strength"]
        turned = "–" if share["value"] is None else f"{share['value']:.1%} of {share['n']} held-out images"
        out.append(f"target:  {row['scan']['target']} (confidence {row['scan']['confidence']:.0%})")
        out.append(f"trigger: by {row['scan']['inverter']}, turns {turned}")
    for check in row["checks"]:
        out.append(f"  {check['name']:<12}{check['outcome']:<12}{check['measured']}")
    if row["cure"] is not None:
        out.append(f"cured:   {row['cure']['model']}")
    return out


def _table_line(row: dict[str, Any]) -> str:
    p = row["scan"]["p_value"] if row["scan"] is not None else None
    against = "" if p is None else f", p = {p:.3f}"
    why = f": {row['error']}" if row["error"] else ""
    return f"{_WORDS[row['exit_code']]:<15}{row['model']} ({row['verdict']}{against}){why}"


def _on_stdout() -> str | None:
    """The format that goes to stdout, if one does."""
    params = click.get_current_context().params
    return params["formats"][0] if params.get("formats") and params.get("out") is None else None


def _format(name: str, result: dict[str, Any]) -> list[str]:
    from unbackdoor.formats import FORMATS
    from unbackdoor.vetting.result import VetResult

    text = FORMATS.get(name).render(VetResult.read(result))
    if text is None:
        raise InputError(f"--format {name}: there is nothing that it could say of {result['models'][0]['model']}")
    return text.rstrip("\n").split("\n")


@command_of(
    VET,
    "models checkpoint data origin test policy show-policy formats engine workers null relatives inverters limit "
    "test_limit classes templates device seed track out",
    lines,
    code=lambda result: int(result["exit_code"]),
)
def command(given: dict[str, Any]) -> Result:
    """Hold models against a policy: say what they are, scan them, and cure them where the policy says so.

    MODEL is a reference, a folder of models, a glob, or @FILE with one of these on each line.

    Exit code 0 when all pass, 1 when one fails, 2 for bad input, 3 for an internal error, 4 when it cannot be told.
    """
    from unbackdoor.verbs.vet import vet

    return vet(**given)
