"""Files and folders that a command is given, looked at before anything heavy is imported: a typo costs no time."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from unbackdoor.base.errors import InputError
from unbackdoor.base.untrusted import is_there

_READ = {
    "checkpoint": "checkpoint file",
    "vector": "vector",
    "recipe": "recipe",
    "captions": "captions file",
    "others": "vector",
    "policy": "policy",
}
_NAMES = re.compile(r"[/\\]|\.(txt|json|csv|yaml|yml)$")  # what can only be a file, and no list that is known by name


def check(options: dict[str, Any]) -> None:
    """Refuse what is not there, or is of another kind than it should be.

    Args:
        options: of a command, by its parameters' names.

    Raises:
        InputError: the first of them.
    """
    for name, what in _READ.items():
        values = options.get(name)
        for path in values if isinstance(values, tuple) else (values,):
            if path is not None:
                _file(Path(path), what)
    for name in ("model", "origin"):
        _model(options.get(name))
    for reference in options.get("models") or ():
        if reference.startswith("@"):
            _file(Path(reference[1:]), "list of models")
        elif not set(reference) & set("*?["):
            _model(reference)
    for name in ("data", "test"):
        _data(options.get(name))
    trigger = options.get("trigger")
    if isinstance(trigger, str) and trigger.startswith("@"):
        _file(Path(trigger[1:]), "trigger's file")
    for name in ("classes", "templates"):
        text = options.get(name)
        if isinstance(text, str) and _NAMES.search(text) and not is_there(Path(text)):
            raise InputError(f"--{name} {text}: neither a file nor a known list of names")
    _finding(options.get("finding"))
    if options.get("null") is not None and not options.get("calibrate"):
        _file(Path(options["null"]), "null")
    _out(options)


def _file(path: Path, what: str) -> None:
    if not is_there(path):
        raise InputError(f"{path}: no such {what}; No such file or directory")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give a file ({what})")
    if not path.is_file():
        raise InputError(f"{path}: is no regular file; give a {what}")


def _finding(path: Path | None) -> None:
    if path is None:
        return
    place = path / "finding.json" if is_there(path) and path.is_dir() else path
    if not is_there(place):
        raise InputError(f"{place}: No such file or directory; give the finding.json of a scan with --out")


def _model(reference: str | None) -> None:
    """What can only be a path has to be there; the rest is for `load` to say."""
    if not reference:
        return
    if reference.startswith("adapter:"):
        place, _, base = reference.removeprefix("adapter:").partition("@")
        if place and not is_there(Path(place)):
            raise InputError(f"{reference}: no such folder {place}; give the folder of an adapter")
        _model(base)
        return
    local = reference.removeprefix("local-dir:")
    is_path = local != reference or os.path.isabs(local) or local.startswith(("./", "../", ".\\", "..\\"))
    if is_path and not is_there(Path(local)):
        raise InputError(f"{reference}: no such model folder")


def _data(source: str | None) -> None:
    if not source:
        return
    kind, _, rest = source.partition(":")
    place = Path(rest) if is_there(Path(rest)) else Path(rest.rpartition("#")[0] or rest)
    if kind == "folder" and rest and not (is_there(place) and place.is_dir()):
        raise InputError(f"{source}: no such folder")
    if kind in ("csv", "parquet") and rest and not is_there(place) and not set(rest) & set("*?[{"):
        raise InputError(f"{source}: no such file or folder")


def _out(options: dict[str, Any]) -> None:
    out = options.get("null") if options.get("calibrate") else options.get("out")
    if out is None:
        return
    path = Path(out)
    as_file = options.get("calibrate") or options.get("out_is_file")
    if not as_file and is_there(path) and not path.is_dir():
        raise InputError(f"{path}: cannot be used as an output folder (it is a file)")
    if as_file and is_there(path) and not path.is_file():
        raise InputError(f"{path}: cannot be used as an output file (it is a folder)")
    above = path if is_there(path) and path.is_dir() else path.parent
    try:
        while not above.exists() and above != above.parent:
            above = above.parent
        usable = above.is_dir() and os.access(above, os.W_OK)
    except (OSError, ValueError):
        raise InputError(f"{str(path)[:200]!r}: is no name of a file or folder") from None
    if not usable:
        raise InputError(f"{path}: cannot be used as an output folder ({above} is no folder that can be written to)")
