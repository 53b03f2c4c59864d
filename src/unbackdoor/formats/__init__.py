"""What `vet` found, in the formats of other tools: each a function of the one result, and a line in this table."""

from __future__ import annotations

from unbackdoor.base.registry import Registry
from unbackdoor.formats.base import Format

FORMATS: Registry[Format] = Registry(
    "format",
    {
        "json": ("unbackdoor.formats.plain:FORMAT", "our own result, with a JSON Schema"),
        "sarif": ("unbackdoor.formats.sarif:FORMAT", "SARIF 2.1.0, for code scanning"),
        "cyclonedx": ("unbackdoor.formats.cyclonedx:FORMAT", "CycloneDX 1.6, a bill of materials with a model card"),
        "intoto": ("unbackdoor.formats.intoto:FORMAT", "an in-toto statement of a test's result"),
        "junit": ("unbackdoor.formats.junit:FORMAT", "JUnit XML, for CI"),
        "model-card": ("unbackdoor.formats.card:FORMAT", "a section of a model card, in Markdown"),
        "eval-results": ("unbackdoor.formats.hub:FORMAT", ".eval_results of a model on the Hugging Face Hub"),
    },
)
