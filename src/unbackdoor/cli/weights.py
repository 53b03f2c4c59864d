"""`unbackdoor weights`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from unbackdoor.cli.options import shared, show
from unbackdoor.printable import terminal

F = TypeVar("F", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path)
_DTYPE = click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    help="Of the result.  [default: each tensor's own]",
)


def _matching(function: F) -> F:
    for option in (
        click.option("--statistics", is_flag=True, help="Move BatchNorm's running statistics, too."),
        click.option("--partial", is_flag=True, help="Tensors that only some hold are no error."),
        click.option("--ignore-prefix", is_flag=True, help="Match names without module., model., _orig_mod. and such."),
        click.option("--hashes", is_flag=True, help="Put SHA-256 of all files into the manifest; takes longer."),
        click.option("--out", type=_FILE, required=True, help="A .safetensors file, or a folder."),
    ):
        function = option(function)
    return function


@click.group("weights")
def command() -> None:
    """Add, subtract and compare state dicts on disk, file to file, at any size.

    Models and vectors are safetensors files, indices of sharded models, or folders with either.
    """


@command.command("diff")
@click.argument("a", type=_FILE)
@click.argument("b", type=_FILE)
@_DTYPE
@_matching
@shared("json", "debug")
def _diff(as_json: bool, **options: Any) -> None:
    """Write A − B: a task vector."""
    from unbackdoor.verbs.weights import diff

    show(diff(**options), as_json, _lines)


@command.command("apply")
@click.argument("model", type=_FILE)
@click.argument("vector", type=_FILE)
@click.option("--alpha", type=float, required=True, help="Scaling coefficient α; the vector is subtracted.")
@_matching
@shared("json", "debug")
def _apply(as_json: bool, **options: Any) -> None:
    """Write MODEL − α · VECTOR, as MODEL is laid out."""
    from unbackdoor.verbs.weights import apply

    show(apply(**options), as_json, _lines)


@command.command("combine")
@click.argument("vectors", type=_FILE, nargs=-1, required=True)
@click.option("--scale", "scales", type=float, multiple=True, help="One for each vector, in order.  [default: 1]")
@_DTYPE
@_matching
@shared("json", "debug")
def _combine(as_json: bool, scales: tuple[float, ...], **options: Any) -> None:
    """Write the scaled sum of VECTORS."""
    from unbackdoor.verbs.weights import combine

    show(combine(scales=scales or None, **options), as_json, _lines)


@command.command("convert")
@click.argument("path", type=_FILE)
@click.option("--unpickle", is_flag=True, help="Run the code that the file asks for. Only if you trust its maker.")
@click.option("--out", type=_FILE, required=True, help="A .safetensors file.")
@shared("json", "debug")
def _convert(as_json: bool, **options: Any) -> None:
    """Write a torch checkpoint's tensors as safetensors."""
    from unbackdoor.verbs.weights import convert

    show(convert(**options), as_json, _lines)


@command.command("lora")
@click.argument("vector", type=_FILE)
@click.option("--rank", type=click.IntRange(1), default=8, show_default=True, help="Of every matrix.")
@click.option("--alpha", type=float, default=1.0, show_default=True, help="Scaling coefficient α.")
@click.option("--base", help="Name of the model that it is for, kept in the adapter.")
@click.option("--out", type=_FILE, required=True, help="Folder to write; not there yet.")
@shared("json", "debug")
def _lora(as_json: bool, **options: Any) -> None:
    """Write −α · VECTOR as a low-rank adapter for PEFT."""
    from unbackdoor.verbs.weights import lora

    show(
        lora(**options),
        as_json,
        lambda r: [
            f"{r['out']}: rank {r['rank']} in {r['modules']} modules, {r['bytes'] / 1e6:.1f} MB",
            f"{r['kept']:.1%} of the vector's squared norm; {r['left_out']} tensors have no place in an adapter",
        ],
    )


@command.command("inspect")
@click.argument("a", type=_FILE)
@click.argument("b", type=_FILE, required=False)
@click.option("--ignore-prefix", is_flag=True, help="Match names without module., model., _orig_mod. and such.")
@shared("json", "debug")
def _inspect(as_json: bool, **options: Any) -> None:
    """Norms of A by block, and with B cosine and distance."""
    from unbackdoor.verbs.weights import inspect

    show(inspect(**options), as_json, _table)


def _lines(result: dict[str, Any]) -> list[str]:
    tensors, seconds = result["tensors"], result["seconds"]
    return [
        f"{terminal(result['out'])}: {tensors['moved']} tensors computed, {tensors['copied']} copied, "
        f"{result['bytes'] / 1e6:.1f} MB in {seconds:.2f} s"
    ]


def _table(result: dict[str, Any]) -> list[str]:
    rows = [*result["groups"], {"group": "all", **result["whole"]}]
    wide = max(len(row["group"]) for row in rows)
    out = [f"{result['a']}: {result['bytes'] / 1e6:.1f} MB in {result['files']} files"]
    for row in rows:
        line = f"{row['group']:{wide}}  {row['elements']:>12,}  {','.join(row['dtypes']):5}  norm {row['norm']:.6g}"
        if result["b"] is not None:
            parts = [("norm of B", "other_norm", ".6g"), ("cosine", "cosine", ".6f"), ("‖A − B‖/‖B‖", "apart", ".3g")]
            line += "".join(
                f"  {name} {'–' if row[key] is None else format(row[key], how)}" for name, key, how in parts
            )
        if row["broken"]:
            line += f"  {row['broken']} NaN or infinite"
        out.append(line)
    for key, what in (("left_out", "not of a floating type"), ("only_a", "only in A"), ("only_b", "only in B")):
        if result[key]:
            more = f" and {len(result[key]) - 3} more" if len(result[key]) > 3 else ""
            out.append(f"{what}: {', '.join(result[key][:3])}{more}")
    out += [f"{alias} is tied to {name}" for alias, name in result["tied"].items()]
    return [terminal(line) for line in out]
