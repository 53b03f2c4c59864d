"""Our own JSON: the result as it is. Its JSON Schema is `assets/schemas/vet.json`."""

from __future__ import annotations

import json

from unbackdoor.formats.base import Format
from unbackdoor.vetting.result import VetResult


def render(result: VetResult) -> str:
    """`result.json`, as every verb writes it."""
    return json.dumps(result.as_dict(), indent=2, allow_nan=False) + "\n"


FORMAT = Format("result.json", render)
