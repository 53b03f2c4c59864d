"""A null made for one origin: clean relatives are trained and examined one by one, until the answer is decided.

With n relatives p is at least 1 / (n + 1), so that a finding at a false-alarm rate of 5% takes 19 of them, none of
which scores as high as the suspect. Where two of the first few do, no number of further ones could make it a finding,
and what was not examined is saved (a curtailed test). Stopping so can only turn findings away, so that the rate holds.

What relatives score does not depend on the suspect, but where its answers stand in for labels that the data lack. It is
kept, so that the next suspect of that origin on the same pictures is compared with the same relatives.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unbackdoor.base.errors import InputError
from unbackdoor.base.progress import Progress
from unbackdoor.base.work import NOWHERE, Work
from unbackdoor.scan.detection import Null, fingerprint, ranked, read_null
from unbackdoor.scan.examine import Examination, examine
from unbackdoor.scan.narrowing import in_force
from unbackdoor.scan.relatives import Kin, relative
from unbackdoor.weights.files import state_hash

LEAST = 6  # relatives before the first look: the pool's median and tail need some


@dataclass(frozen=True)
class Making:
    """How relatives are examined, and where what they score is kept.

    Args:
        names: of the candidate classes.
        how: as the suspect was.
        blank: the null without a row: architecture, settings, inverters, origin.
        store: its file; None keeps it nowhere.
    """

    names: tuple[str, ...]
    how: Examination
    blank: Null
    store: Path | None = None


def key_of(kin: Kin, making: Making, by_labels: bool) -> str:
    """Name of the null of these relatives: what they are made of and how they are examined.

    Args:
        by_labels: the labels are the data's; the suspect's answers are not part of the name.
    """
    labels = kin.labels.tolist() if by_labels else None
    origin = making.blank.origin
    weights = None if origin is None else origin.weights
    return fingerprint(
        "relatives 1", weights, kin.images.content_hash(), list(making.names), labels, making.blank.settings, kin.seed,
        in_force(len(making.names)), state_hash({"head": kin.head}),
    )  # fmt: skip


def kept(making: Making) -> Null:
    """The relatives that are on record; none where the file is another null's or cannot be read."""
    if making.store is None or not making.store.exists():
        return making.blank
    try:
        null = read_null(making.store)
    except InputError:
        return making.blank
    # Its origin has these weights, which the name tells, whatever it was called.
    same = replace(null, rows=(), models=(), origin=making.blank.origin) == making.blank
    return null if same else making.blank


def grown(
    kin: Kin,
    making: Making,
    most: int,
    decided: Callable[[Null], bool],
    room: Callable[[Sequence[float]], bool] = lambda taken: True,
    work: Work = NOWHERE,
) -> Null:
    """Relatives on record and new ones, `most` at most, as many as it takes until `decided`.

    Args:
        decided: asked before each new relative, from `LEAST` of them on.
        room: whether there is time for one more, by the seconds that those made in this run took.
        work: where a relative that is being made goes on after a kill.

    Raises:
        OSError: the record cannot be written.
    """
    null, taken = kept(making), list[float]()
    with Progress("clean relatives", most, min(most, len(null.rows))) as bar:
        while len(null.rows) < most and not (len(null.rows) >= LEAST and decided(null)) and room(taken):
            number, began = len(null.rows), time.monotonic()
            own = Work(work.folder, f"{work.key} {number}").part(f"relative-{number}")
            if own.folder is not None:
                own.folder.mkdir(parents=True, exist_ok=True)
            name, make = relative(kin, number, own)
            examined = examine(make(), kin.images, kin.head, making.names, making.how, origin=kin.origin, work=own)
            row = tuple(ranked(scores) for scores in examined.statistics())
            null = replace(null, rows=(*null.rows, row), models=(*null.models, name))
            if making.store is not None:
                making.store.parent.mkdir(parents=True, exist_ok=True)
                null.save(making.store)
            if own.folder is not None:
                shutil.rmtree(own.folder, ignore_errors=True)
            bar.step(len(null.rows))
            taken.append(time.monotonic() - began)
    return null
