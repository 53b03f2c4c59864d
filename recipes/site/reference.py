"""Reference pages that are made from the code: commands, Python's names, and the fields of schemas."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING
from functools import cache
from importlib import resources
from typing import Any

import click

import unbackdoor
from unbackdoor.cli.main import COMMANDS as REGISTRY

COMMANDS = "reference/commands/"
# What the package offers besides verbs; the names are those that `unbackdoor` exports.
_OPENERS = ("load", "load_images", "parse_trigger")
_CLASSES = ("unbackdoor.clip.handle.Clip", "unbackdoor.data.images.ImageSet", "unbackdoor.triggers.base.Trigger")


@cache
def pages() -> Mapping[str, str]:
    """Markdown by path within the site."""
    made = {f"{COMMANDS}index.md": _index()}
    made |= {f"{COMMANDS}{name}.md": command_page(name, REGISTRY.get(name)) for name in REGISTRY.names()}
    made["reference/python.md"] = python_page()
    made["reference/schemas.md"] = schema_page()
    return made


def _index() -> str:
    rows = [f"| [`{name}`]({name}.md) | {REGISTRY.about(name)} |" for name in REGISTRY.names()]
    return "\n".join(
        [
            "# Commands",
            "",
            "These pages are made from the options themselves; `unbackdoor COMMAND --help` prints the same.",
            "",
            "| command | what it does |",
            "| --- | --- |",
            *rows,
            "",
        ]
    )


def command_page(name: str, command: click.Command) -> str:
    """A command, or a group with its parts, as Markdown."""
    root = click.Context(click.Group("unbackdoor"), info_name="unbackdoor", help_option_names=["-h", "--help"])
    context = click.Context(command, info_name=name, parent=root)
    lines = [f"# {name}", "", *_body(command, context)]
    if isinstance(command, click.Group):
        for part in command.list_commands(context):
            inner = command.get_command(context, part)
            assert inner is not None
            lines += [f"## {name} {part}", "", *_body(inner, click.Context(inner, info_name=part, parent=context))]
    return "\n".join(lines)


def _body(command: click.Command, context: click.Context) -> Iterator[str]:
    yield inspect.cleandoc(command.help or "").replace("\b\n", "")
    yield ""
    yield f"```text\n{command.get_usage(context).removeprefix('Usage: ')}\n```"
    yield ""
    records = [r for r in (param.get_help_record(context) for param in command.get_params(context)) if r]
    if records:
        yield "| option | what it does |"
        yield "| --- | --- |"
        for option, text in records:
            yield f"| {_code(option)} | {_cell(text)} |"
        yield ""


def python_page() -> str:
    """The public names: how to open things, the verbs with their keywords, and the classes that they take."""
    lines = [
        "# Python",
        "",
        "`import unbackdoor` loads nothing heavy; a name is loaded when it is first used. A verb does what the command",
        "of that name does. It takes keywords, and returns a typed result ([what it holds](results.md)).",
        "Bad input raises `unbackdoor.InputError`.",
        "",
        "## Open models, images and triggers",
        "",
    ]
    for name in _OPENERS:
        lines += [f"::: {_place(name)}", ""]
    lines += ["## Verbs", ""]
    for name in sorted(set(unbackdoor.__all__) - {*_OPENERS, "InputError", "__version__"}):
        lines += [f"::: {_place(name)}", "    options:", "      show_signature: false", "", *_keywords(name), ""]
    lines += ["## Classes", ""]
    for place in _CLASSES:
        lines += [f"::: {place}", ""]
    lines += ["## Errors", "", "::: unbackdoor.base.errors.InputError", ""]
    return "\n".join(lines)


def _place(name: str) -> str:
    return f"{getattr(unbackdoor, name).__module__}.{name}"


def _keywords(name: str) -> Iterator[str]:
    verb = getattr(unbackdoor, name)
    known = verb.parameters() if hasattr(verb, "parameters") else {}
    yield "| keyword | type | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for keyword, parameter in inspect.signature(verb).parameters.items():
        option = known[keyword].option if keyword in known else None
        if known and option is None:
            continue
        needed = parameter.default in (inspect.Parameter.empty, MISSING)
        kind = getattr(parameter.annotation, "__name__", parameter.annotation)
        default = "needed" if needed else _code(parameter.default)
        yield f"| `{keyword}` | {_code(kind)} | {default} | {_cell(option.help or '') if option else ''} |"


def schema_page() -> str:
    """Every JSON Schema that is installed, as a table of fields."""
    lines = [
        "# Fields of the result files",
        "",
        "Made from the schemas that are installed in `unbackdoor/assets/schemas` (JSON Schema, draft 2020-12).",
        "",
    ]
    folder = resources.files("unbackdoor") / "assets" / "schemas"
    for file in sorted((f for f in folder.iterdir() if f.name.endswith(".json")), key=lambda f: f.name):
        schema = json.loads(file.read_text(encoding="utf-8"))
        lines += [f"## {file.name}", ""]
        if about := schema.get("description"):
            lines += [about, ""]
        lines += ["| field | type | required | what it holds |", "| --- | --- | --- | --- |"]
        lines += [*_fields(_resolved(schema, schema), schema), ""]
    return "\n".join(lines)


def _fields(part: Mapping[str, Any], whole: Mapping[str, Any], before: str = "", depth: int = 0) -> Iterator[str]:
    needed = part.get("required", ())
    for name, value in part.get("properties", {}).items():
        inner = _resolved(value, whole)
        about = _cell(inner.get("description", value.get("description", "")))
        yield f"| `{before}{name}` | {_cell(_type(value, whole))} | {'yes' if name in needed else ''} | {about} |"
        if depth < 2 and inner.get("type") == "object":
            yield from _fields(inner, whole, f"{before}{name}.", depth + 1)


def _resolved(part: Mapping[str, Any], whole: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in part:
        part = whole["$defs"][part["$ref"].rpartition("/")[2]]
    return part


def _type(part: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    inner = _resolved(part, whole)
    if "anyOf" in inner:
        return " or ".join(dict.fromkeys(_type(one, whole) for one in inner["anyOf"]))
    if "enum" in inner:
        return "one of " + ", ".join(f"`{one}`" for one in inner["enum"])
    kind = inner.get("type", "any")
    if kind == "array":
        return f"list of {_type(inner.get('items') or {}, whole)}" if isinstance(inner.get("items"), dict) else "list"
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _cell(text: Any) -> str:
    """In a cell of a table; brackets are no links."""
    return re.sub(r"([|\[\]])", r"\\\1", " ".join(str(text).split())).replace("<", "&lt;")


def _code(text: Any) -> str:
    """The same as code, in which a table allows no bar: `A | B` are two types."""
    return f"`{' '.join(str(text).split())}`".replace(" | ", "` or `").replace("|", "/")
