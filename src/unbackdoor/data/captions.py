"""Several captions of one image, as the sets of the field have them: five a picture in COCO and Flickr30k.

A single caption is a string, "" where there is none; several are a tuple of strings, of which none is empty.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any, Union

import torch

from unbackdoor.base.draws import drawn_index
from unbackdoor.base.errors import InputError
from unbackdoor.base.untrusted import parse_json

Captions = Union[str, tuple[str, ...]]
_WORDS = ("caption", "raw", "text", "sentence")  # where an entry of a list keeps its sentence
_KEYS = ("captions", "caption", "sentences", "texts", "text")
_STREAM = 21  # of `unit_draws`
_LONGEST_LIST = 1 << 20  # characters of a list in a table's cell


def joined(sentences: Sequence[str]) -> Captions:
    """Sentences of one image as one value; empty ones and repetitions are left out."""
    texts = tuple(dict.fromkeys(s for s in (sentence.strip() for sentence in sentences) if s))
    return texts if len(texts) > 1 else texts[0] if texts else ""


def sentences_of(captions: Captions) -> tuple[str, ...]:
    """Every sentence of an image."""
    return captions if isinstance(captions, tuple) else (captions,) if captions else ()


def read_captions(value: Any) -> Captions:
    """Captions of a value from JSON or Parquet: a sentence, a list of them, or of objects that hold one each."""
    if value is None or isinstance(value, bool):
        return ""
    if isinstance(value, dict):
        return read_captions(next((value[k] for k in _WORDS if isinstance(value.get(k), str)), None))
    if isinstance(value, list | tuple):
        return joined(
            [s for item in value if not isinstance(item, list | tuple) for s in sentences_of(read_captions(item))]
        )
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace").strip()
    return str(value).strip()


def entry_captions(entry: dict[str, Any]) -> Captions:
    """Captions of a sample's JSON object."""
    return next((captions for k in _KEYS if (captions := read_captions(entry.get(k)))), "")


def lines_of(text: str) -> Captions:
    """Captions of a text file, one on each line."""
    return joined(text.splitlines())


def cell_captions(cell: str) -> Captions:
    """Captions of a table's cell: a sentence, or a list as JSON or Python writes it."""
    text = cell.strip()
    if not (text.startswith("[") and text.endswith("]") and len(text) <= _LONGEST_LIST):
        return text
    try:
        value = parse_json(text, "a list of captions")
    except InputError:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return text
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return joined(value)
    return text


def drawn(captions: Captions, row: int, seed: int) -> str:
    """One sentence, a function of (seed, row) alone; "" where there is none."""
    if isinstance(captions, str):
        return captions
    return captions[drawn_index(torch.tensor([row]), len(captions), seed, _STREAM)[0]]
