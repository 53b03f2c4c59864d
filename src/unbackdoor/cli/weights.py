"""`unbackdoor weights`."""

from __future__ import annotations

from typing import Any

import click

from unbackdoor.base.printable import terminal
from unbackdoor.cli.generate import Result, command_of
from unbackdoor.verbs.configs.weights import APPLY, CHECKPOINT, COMBINE, DIFF, INSPECT, LORA


@click.group("weights")
def command() -> None:
    """Add, subtract and compare state dicts on disk, file to file, at any size.

    Models and vectors are safetensors files, indices of sharded models, or folders with either.
    """


def _lines(result: dict[str, Any]) -> list[str]:
    tensors, seconds = result["tensors"], result["seconds"]
    return [
        f"{terminal(result['out'])}: {tensors['moved']} tensors computed, {tensors['copied']} copied, "
        f"{result['bytes'] / 1e6:.1f} MB in {seconds:.2f} s"
    ]


def _adapter(result: dict[str, Any]) -> list[str]:
    return [
        f"{result['out']}: rank {result['rank']} in {result['modules']} modules, {result['bytes'] / 1e6:.1f} MB",
        f"{result['kept']:.1%} of the vector's squared norm; {result['left_out']} tensors have no place in an adapter",
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


@command_of(DIFF, "a b dtype out hashes ignore_prefix partial statistics", _lines, group=command)
def _diff(given: dict[str, Any]) -> Result:
    """Write A − B: a task vector."""
    from unbackdoor.verbs.weights import diff

    return diff(**given)


@command_of(APPLY, "model vector alpha out hashes ignore_prefix partial statistics", _lines, group=command)
def _apply(given: dict[str, Any]) -> Result:
    """Write MODEL − α · VECTOR, as MODEL is laid out."""
    from unbackdoor.verbs.weights import apply

    return apply(**given)


@command_of(COMBINE, "vectors scales dtype out hashes ignore_prefix partial statistics", _lines, group=command)
def _combine(given: dict[str, Any]) -> Result:
    """Write the scaled sum of VECTORS."""
    from unbackdoor.verbs.weights import combine

    return combine(**given)


@command_of(CHECKPOINT, "path unpickle out", _lines, group=command)
def _convert(given: dict[str, Any]) -> Result:
    """Write a torch checkpoint's tensors as safetensors."""
    from unbackdoor.verbs.weights import convert

    return convert(**given)


@command_of(LORA, "vector rank alpha base out", _adapter, group=command)
def _lora(given: dict[str, Any]) -> Result:
    """Write −α · VECTOR as a low-rank adapter for PEFT."""
    from unbackdoor.verbs.weights import lora

    return lora(**given)


@command_of(INSPECT, "a b ignore_prefix", _table, group=command)
def _inspect(given: dict[str, Any]) -> Result:
    """Norms of A by block, and with B cosine and distance."""
    from unbackdoor.verbs.weights import inspect

    return inspect(**given)
