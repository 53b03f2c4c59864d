"""An in-toto Statement v1 of a test's result, over the SHA-256 of the model's weight files; not signed.

https://github.com/in-toto/attestation, spec/v1/statement.md and spec/predicates/test-result.md. It speaks of the files
that were given: a model that passes because its cured copy does has FAILED here.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from unbackdoor.formats.base import NAME, Format, as_text, names
from unbackdoor.vetting.result import VetResult, Vetting

Json = dict[str, Any]
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"
_RESULTS = {"clean": "PASSED", "cannot-tell": "WARNED"}


def render(result: VetResult) -> str | None:
    """The statement of one model; None where no file of it could be hashed."""
    (row,) = result.models
    if not row.weight_files:
        return None
    policy = json.dumps(result.policy.as_dict(), sort_keys=True).encode()
    return as_text(
        {
            "_type": STATEMENT,
            "subject": [
                {"name": name, "digest": {"sha256": file.sha256}}
                for name, file in zip(names(row.weight_files), row.weight_files, strict=True)
            ],
            "predicateType": PREDICATE,
            "predicate": {
                "result": _outcome(row),
                "configuration": [
                    {
                        "name": "policy",
                        "mediaType": "application/json",
                        "digest": {"sha256": hashlib.sha256(policy).hexdigest()},
                        "content": base64.b64encode(policy).decode(),
                    },
                    {"name": NAME, "uri": f"pkg:pypi/{NAME}@{result.version}"},
                ],
                "passedTests": _tests(row, "pass"),
                "warnedTests": _tests(row, "warn", "cannot-tell"),
                "failedTests": _tests(row, "fail"),
            },
        }
    )


def _outcome(row: Vetting) -> str:
    outcome = _RESULTS.get(row.verdict, "FAILED")
    # A policy may turn "cannot tell" into a failure, and a file that would run code into a warning.
    if row.exit_code == 1:
        return "FAILED"
    return "WARNED" if outcome == "PASSED" and _tests(row, "warn") else outcome


def _tests(row: Vetting, *outcomes: str) -> list[str]:
    return [check.name for check in row.checks if check.outcome in outcomes]


FORMAT = Format("vet.intoto.json", render, each=True)
