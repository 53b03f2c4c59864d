"""What a format is, and what several of them say alike. Light: the command line's help is made of the table."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from unbackdoor.runs.result import Share
    from unbackdoor.vetting.result import FileFacts, VetResult, Vetting

NAME = "unbackdoor"
VALIDATE_MODEL = "AML.M0008"  # MITRE ATLAS, the mitigation: https://github.com/mitre-atlas/atlas-data
LIMITS = (
    "A scan that finds nothing is no proof that there is nothing: it looks for changes of the picture that lead many "
    "pictures to one class.",
    "Not looked at: triggers in texts, triggers that act on one class of pictures alone, and code beside the weights "
    "that is not named by a configuration or a pickle.",
)


@dataclass(frozen=True)
class Weakness:
    """What public lists call a thing that is found.

    Args:
        cwe: its number in the Common Weakness Enumeration.
        techniques: of MITRE ATLAS.
    """

    cwe: int
    techniques: tuple[str, ...]


HIDDEN_TRIGGER = Weakness(506, ("AML.T0018.000", "AML.T0043.004"))  # embedded malicious code; poison, insert a trigger
CODE_ON_READING = Weakness(502, ("AML.T0010.003",))  # deserialization of untrusted data; supply chain


@dataclass(frozen=True)
class Format:
    """A format.

    Args:
        file: its file's name in the output folder.
        render: the file's content; None where the result holds nothing that the format could say.
        each: it speaks of one model, so that of several each gets a file of its own.
    """

    file: str
    render: Callable[[VetResult], str | None]
    each: bool = False


def as_text(value: Any) -> str:
    """Readable JSON; NaN is refused."""
    return json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def address(path: str) -> str:
    """A path as a URI reference: relative as it is, absolute with `file:`; its characters escaped."""
    plain = PurePath(path).as_posix()
    absolute = PurePath(path).is_absolute()
    quoted = quote(plain, safe="/")
    return f"file://{'' if quoted.startswith('/') else '/'}{quoted}" if absolute else quoted


def names(files: Sequence[FileFacts]) -> list[str]:
    """Files by their names alone: where they lie on this machine is nobody else's business.

    Files of one name are told apart by the folder that they lie in.
    """
    plain = [PurePath(file.path).name for file in files]
    parents = [PurePath(file.path).parent.name for file in files]
    return [f"{p}/{name}" if plain.count(name) > 1 else name for p, name in zip(parents, plain, strict=True)]


def number(value: float | None) -> str:
    """A number in words of four digits."""
    return "–" if value is None else f"{value:.4g}"


def share_text(share: Share) -> str:
    """`93.8% [71.7, 98.9], n = 16`."""
    if share.value is None:
        return "nothing to count"
    low, high = share.interval
    return f"{share.value:.1%} [{100 * low:.1f}, {100 * high:.1f}], n = {share.n}"


def shares(row: Vetting) -> list[tuple[str, str, Share]]:
    """Every measured share of a model: name, on which images, and the share."""
    measured: list[tuple[str, str, Share]] = []
    if row.scan is not None:
        name = "recovered trigger" if row.scan.backdoored else "strongest candidate, which is no finding"
        measured.append((f"strength of the {name}", f"held-out images of {row.scan.data}", row.scan.strength))
    if row.cure is not None:
        kind = "clean accuracy" if row.cure.labels else "answers as before"
        measured += [
            (f"{kind}, before the cure", "test images", row.cure.before),
            (f"{kind}, after the cure", "test images", row.cure.after),
            ("strength of the recovered trigger, after the cure", "test images", row.cure.strength),
        ]
    return [(name, where, share) for name, where, share in measured if share.value is not None]
