"""The JSON Schemas of results, kept as files that are shipped: each is what its dataclass says.

`UNBACKDOOR_GOLDEN=write python -m pytest tests/golden/test_schemas.py` writes them anew.
"""

from __future__ import annotations

import json
import os

import pytest
from jsonschema import Draft202012Validator

from unbackdoor.verbs.schemas import FOLDER, RESULTS, schema_text

WRITE = os.environ.get("UNBACKDOOR_GOLDEN") == "write"


@pytest.mark.parametrize("name", RESULTS)
def test_a_schema_is_what_its_dataclass_says(name: str) -> None:
    path = FOLDER / f"{name}.json"
    if WRITE:
        FOLDER.mkdir(exist_ok=True)
        path.write_text(schema_text(name), encoding="utf-8", newline="\n")
    assert path.read_text(encoding="utf-8") == schema_text(name), "has changed; see the top of this file"
    Draft202012Validator.check_schema(json.loads(schema_text(name)))


def test_nothing_is_shipped_of_results_that_are_gone() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(RESULTS)
