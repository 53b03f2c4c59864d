"""From the address of a request to a file of the folder that is served, and to nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes


def parts_of(address: str) -> list[str] | None:
    """The names that an address is made of; None where it is none of ours.

    An address is decoded once. Empty names, hidden ones, `.` and `..`, and names with a NUL, a backslash or (on
    Windows) a colon are refused, not resolved.

    Args:
        address: path of a request, without `?…`, as it was sent; a `/` at its end is passed over.
    """
    if not address.startswith("/"):
        return None
    names = address[1:].removesuffix("/").split("/") if address != "/" else []
    parts = [os.fsdecode(unquote_to_bytes(name)) for name in names]
    return parts if all(_is_name(part) for part in parts) else None


def address_of(place: str) -> str:
    """The address of a path below the folder that is served, without the `/` before it."""
    return quote(os.fsencode(place))


def inside(root: Path, parts: list[str]) -> Path | None:
    """The place that the names lead to, links followed; None where there is none, or it lies outside or is hidden.

    Args:
        root: resolved folder.
    """
    try:
        real = root.joinpath(*parts).resolve(strict=True)
        below = real.relative_to(root)
    except (OSError, ValueError, RuntimeError):  # not there, outside, a loop of links
        return None
    return None if any(name.startswith(".") for name in below.parts) else real


def _is_name(part: str) -> bool:
    odd = "/\\\0:" if os.name == "nt" else "/\\\0"
    return bool(part) and not part.startswith(".") and not any(c in part for c in odd)
