"""JSON Schemas (draft 2020-12) of results, made of their dataclasses: types, and what the docstrings say."""

from __future__ import annotations

import inspect
import re
from dataclasses import Field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from unbackdoor.runs.result import Result, key_of

Json = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}


def schema_of(kind: type[Result]) -> Json:
    """The schema of one result; what it is made of stands under `$defs`."""
    parts: dict[str, type] = {}
    whole = {"$schema": DIALECT, "title": kind.__name__, **_object(kind, parts)}
    made: Json = {}
    while len(made) < len(parts):  # a part may bring further ones
        made |= {name: _object(part, parts) for name, part in list(parts.items()) if name not in made}
    return {**whole, "$defs": dict(sorted(made.items()))} if made else whole


def _object(kind: type, parts: dict[str, type]) -> Json:
    """A dataclass; of its parts, which are referred to, `parts` collects the classes."""
    types, about = get_type_hints(kind), _about_fields(kind)
    own: list[Field[Any]] = [f for f in fields(kind) if "spread" not in f.metadata]
    properties = {}
    for f in own:
        absent = "optional" in f.metadata and not f.metadata.get("null")
        form = _type(_without_none(types[f.name]) if absent else types[f.name], parts)
        properties[key_of(f.name)] = {**({"description": about[f.name]} if f.name in about else {}), **form}
    return {
        "description": _first_paragraph(kind),
        "type": "object",
        "properties": properties,
        "required": [key_of(f.name) for f in own if "optional" not in f.metadata],
        "additionalProperties": len(own) < len(fields(kind)),
    }


def _type(kind: Any, parts: dict[str, type]) -> Json:
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return {}
    if is_dataclass(kind):
        assert isinstance(kind, type)
        parts[kind.__name__] = kind
        return {"$ref": f"#/$defs/{kind.__name__}"}
    if origin is Literal:
        return {"enum": list(args)}
    if origin in (Union, UnionType):
        return _any_of([_type(arg, parts) for arg in args])
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(args[1], parts) or True}
    if origin is tuple and args[-1] is not Ellipsis:
        return {
            "type": "array",
            "prefixItems": [_type(arg, parts) for arg in args],
            "minItems": len(args),
            "items": False,
        }
    if origin is tuple:
        return {"type": "array", "items": _type(args[0], parts)}
    return {"type": _PLAIN[kind]}


def _any_of(kinds: list[Json]) -> Json:
    """Types that are no more than a name are written in one list."""
    if all(list(part) == ["type"] for part in kinds):
        return {"type": [part["type"] for part in kinds]}
    return {"anyOf": kinds} if len(kinds) > 1 else kinds[0]


def _without_none(kind: Any) -> Any:
    """Of a field that is left out where it is None."""
    left = tuple(arg for arg in get_args(kind) if arg is not NoneType)
    return left[0] if get_origin(kind) in (Union, UnionType) and len(left) == 1 else kind


def _first_paragraph(kind: type) -> str:
    return _as_json_says((inspect.getdoc(kind) or "").partition("\n\n")[0])


def _about_fields(kind: type) -> dict[str, str]:
    """What the `Args:` of a class and of those that it is made from say, by field."""
    lines: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        text = (inspect.cleandoc(owner.__doc__ or "")).partition("Args:\n")[2]
        for names, about in re.findall(r"^    ([\w, ]+): (.*(?:\n {8}.*)*)", text, flags=re.MULTILINE):
            lines |= {name.strip(): _as_json_says(about) for name in names.split(",")}
    return lines


def _as_json_says(text: str) -> str:
    return re.sub(r"\bNone\b", "null", " ".join(text.split()))
