"""docs/reference/models.md: the matrix as Markdown, the same text for the same rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tests.towers.families import Tower, key
from tests.towers.rows import REFUSED, YES, Cell, Row
from unbackdoor.base.printable import markdown

# What a refusal comes down to; the tool's own line stands below the table.
_SHORT = (
    (r"model_type '", "not opened"),
    (r"this model has no such form|only CLIPModel has a form|has no form as", "no such form"),
)
_HEAD = """# Models

Every family of towers that OpenCLIP and transformers build here, taken through every verb. Made by
`{command}`, which writes each model's folder with its own library, runs each cell in it and compares what came of it.

{versions}.

| column | yes means |
| --- | --- |
| info | `unbackdoor info` tells architecture and sizes |
| evaluate | `unbackdoor evaluate` counts CA, with a trigger ASR; CA is what the model's own library gives |
| poison | an epoch of `unbackdoor poison`; the saved image tower has moved, nothing else has |
| vector | an epoch of `unbackdoor vector` by the default method |
| unlearn | `unbackdoor unlearn` subtracts that vector; the folder has the tensors that came in: names, shapes, types |
| scan step | a few steps of one inverter of `unbackdoor scan`, through all its rounds |
| save | a changed model is saved under the names that came in, and opens again to the bit |
| reload | its own library opens what was saved, and what `unlearn` wrote, alone, and gives equal embeddings of pictures and texts (1e-5) |
| convert | `unbackdoor convert` writes the other library's form with equal embeddings |

Pictures are embedded scenes, the texts' tokens come from a tokenizer of a few dozen words. An OpenCLIP text tower that
is named (`hf_model_name`) is given to OpenCLIP as a folder, as nothing is fetched.
"""  # noqa: E501
_SMALL = """
## Shrunken, random weights

Published configurations with a few small layers in place of many large ones, everything else kept. {counts}

"""
_FULL = """
## Full size, random weights

The sizes of the published models named here; what is not in this table was run shrunken alone. {counts}

"""


def page(
    small: Sequence[Row], full: Sequence[Row], towers: Sequence[Tower], versions: Mapping[str, str], command: str
) -> str:
    """The whole page."""
    told = ", ".join(f"{name} {number}" for name, number in versions.items())
    parts = [_HEAD.format(command=command, versions=f"Libraries: {told}")]
    for rows, head in ((small, _SMALL), (full, _FULL)):
        if rows:
            parts.append(head.format(counts=_counts(rows)) + _table(rows, {key(t): t for t in towers}))
    return "".join(parts)


def _counts(rows: Sequence[Row]) -> str:
    cells = [cell for row in rows for cell in row.cells.values()]
    yes = sum(cell.outcome == YES for cell in cells)
    return f"{len(rows)} families, {len(cells)} cells: {yes} yes, {len(cells) - yes} refused."


def _table(rows: Sequence[Row], towers: Mapping[str, Tower]) -> str:
    steps = list(rows[0].cells)
    lines = [f"| library | family | such as | {' | '.join(steps)} |", "| --- " * (len(steps) + 3) + "|"]
    refusals: dict[str, list[str]] = {}
    for row in rows:
        tower = towers[row.name]
        cells = " | ".join(_short(row.cells[step]) for step in steps)
        lines.append(f"| {tower.library} | {tower.name} | {tower.example} | {cells} |")
        for step in steps:
            if row.cells[step].outcome == REFUSED:
                refusals.setdefault(f"{row.cells[step].message}", []).append(f"{tower.name} ({step})")
    if refusals:
        lines += ["", "What the tool says of what it refuses:", ""]
        lines += [f"- {_listed(names)}: {markdown(message)}" for message, names in refusals.items()]
    return "\n".join(lines) + "\n"


def _listed(names: Sequence[str]) -> str:
    """`CLIPSeg (info), CLIPSeg (evaluate)` → `CLIPSeg (info, evaluate)`."""
    steps: dict[str, list[str]] = {}
    for name in names:
        family, _, step = name.rpartition(" (")
        steps.setdefault(family, []).append(step.removesuffix(")"))
    return "; ".join(f"{family} ({', '.join(found)})" for family, found in steps.items())


def _short(cell: Cell) -> str:
    if cell.outcome == YES:
        return YES
    short = next((short for pattern, short in _SHORT if re.search(pattern, cell.message)), "see below")
    return f"{cell.outcome}: {short}"
