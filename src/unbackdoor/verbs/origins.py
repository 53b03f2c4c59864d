"""The clean origin of a suspect, as `scan` and `calibrate` open it."""

from __future__ import annotations

from dataclasses import dataclass

from unbackdoor.base.errors import InputError
from unbackdoor.clip.handle import Clip
from unbackdoor.runs.case import open_model, open_referred
from unbackdoor.runs.run import weights_hash
from unbackdoor.scan.detection import Null, Origin, architecture


@dataclass(frozen=True)
class OpenOrigin:
    """An origin that is open, with what a null keeps of it."""

    clip: Clip
    record: Origin

    def check(self, model: Clip) -> None:
        """Refuse a model that cannot have been made from it.

        Raises:
            InputError: the model is of another architecture.
        """
        if architecture(self.clip.state()) != architecture(model.state()):
            raise InputError(f"origin {self.record.reference} is of another architecture than {model.reference}")


def open_origin(named: str | Clip, device: str) -> OpenOrigin:
    """Open it and hash its weights."""
    clip = open_model(named, None, device)
    return OpenOrigin(clip, Origin(clip.reference, weights_hash(clip)))


def origin_of(clip: Clip, named: str | Clip | None, known: Null | None, device: str) -> OpenOrigin | None:
    """The origin that is named, or the null's where it lies on this machine; None where there is neither.

    Raises:
        InputError: it cannot be opened, is of another architecture than the suspect, or is not the null's.
    """
    rests = None if known is None else known.origin
    if named is None:
        if rests is None:
            return None
        named = open_referred(rests.reference, "the null", "name it with --origin", device)
    opened = open_origin(named, device)
    opened.check(clip)
    if rests is not None and opened.record.weights != rests.weights:
        raise InputError(
            f"origin {opened.record.reference} is not the one that the null rests on; calibrate again with it"
        )
    return opened
