"""Clean models on record that do not fit a scan: the line names what differs, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from unbackdoor.scan.comparable import Scanned, why_not
from unbackdoor.scan.detection import Null, Origin
from unbackdoor.scan.examine import settings

INVERTERS = ("patch", "colour")
SCAN = Scanned(INVERTERS, 1024, "a1", 10)


def null_of(images: int = 1024, classes: int = 10, origin: str = "a1") -> Null:
    return Null("kind", settings(images, INVERTERS, origin, classes), INVERTERS, (), (), Origin("embedded", origin))


@pytest.mark.parametrize(
    ("null", "scan", "differs", "agrees"),
    [
        (null_of(), replace(SCAN, classes=360), ["with at most 48 classes and not 360;"], ["images", "another"]),
        (null_of(classes=200), SCAN, ["with more than 48 classes and not 10;"], ["images", "another"]),
        (null_of(), replace(SCAN, images=500), ["with 1,024 images and not 500;"], ["classes", "another"]),
        (null_of(), replace(SCAN, origin="b2"), ["with another origin (embedded);"], ["classes", "images"]),
        (null_of(), replace(SCAN, origin=None), ["with another origin (embedded);"], ["classes", "images"]),
        (
            replace(null_of(), settings=settings(1024, INVERTERS, None, 10), origin=None),
            SCAN,
            ["without an origin;"],
            ["classes", "images"],
        ),
        (
            null_of(),
            replace(SCAN, images=500, classes=360),
            ["with 1,024 images and not 500 and with at most 48 classes and not 360;"],
            ["another"],
        ),
        (null_of(), replace(SCAN, inverters=("patch", "warp")), ["without the inverters warp;"], ["classes", "images"]),
        (null_of(images=77), SCAN, ["in another way"], ["classes"]),
        (None, SCAN, ["no clean models of this architecture are on record"], ["classes", "images"]),
    ],
)
def test_what_differs_is_named(null: Null | None, scan: Scanned, differs: list[str], agrees: list[str]) -> None:
    line = why_not(null, scan, 1024)
    assert all(part in line for part in differs) and not any(part in line for part in agrees)
    assert line.startswith("cannot tell: ") and "--origin" in line and "\n" not in line


@pytest.mark.parametrize("scan", [SCAN, replace(SCAN, inverters=("colour",)), replace(SCAN, classes=48)])
def test_what_fits_has_no_reason(scan: Scanned) -> None:
    assert why_not(null_of(), scan, 1024) == ""
