"""Whether clean models on record can be compared with a scan, and if not, in what they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from unbackdoor.scan.detection import Null
from unbackdoor.scan.examine import settings
from unbackdoor.scan.narrowing import LIMIT, in_force

_HELP = "name the clean model that this one was made from with --origin, or make clean models with scan --calibrate"


@dataclass(frozen=True)
class Scanned:
    """What a scan did, as far as it decides the scale of its statistics.

    Args:
        inverters: that ran.
        images: how many.
        origin: hash of the clean origin's weights, where there is one.
        classes: how many there are.
    """

    inverters: Sequence[str]
    images: int
    origin: str | None
    classes: int


def why_not(null: Null | None, scan: Scanned, usual: int) -> str:
    """The reason why there is no p-value, and what helps; empty if there is one.

    A null of more inverters than ran fits, too: each scores alike, whichever others run beside it.

    Args:
        usual: number of images where nobody names one; the null may be of that many.
    """
    if null is None:
        return f"cannot tell: no clean models of this architecture are on record to compare with; {_HELP}"
    missing = [name for name in scan.inverters if name not in null.inverters]
    own = scan.inverters if missing else null.inverters
    if null.settings == settings(scan.images, own, scan.origin, scan.classes):
        return ""
    reasons = [f"without the inverters {', '.join(missing)}"] if missing else _differences(null, scan, usual)
    how = " and ".join(reasons) or "in another way, such as with another number of images or an older version"
    return f"cannot tell: the clean models on record were scanned {how}; {_HELP}"


def _differences(null: Null, scan: Scanned, usual: int) -> list[str]:
    """What has to be changed for the null to fit. A null holds a fingerprint alone, so that what is likely is tried."""
    origin = None if null.origin is None else null.origin.weights
    name = "without an origin" if null.origin is None else f"with another origin ({null.origin.reference})"
    reasons = [name] if origin != scan.origin else []
    long = in_force(scan.classes)
    for images, classes in product(dict.fromkeys((scan.images, usual)), (scan.classes, 0 if long else LIMIT + 1)):
        if null.settings == settings(images, null.inverters, origin, classes):
            if images != scan.images:
                reasons.append(f"with {images:,} images and not {scan.images:,}")
            if in_force(classes) != long:
                reasons.append(f"with {'at most' if long else 'more than'} {LIMIT} classes and not {scan.classes:,}")
            return reasons
    return []
