"""`info`: what a model, a data source or a trigger is, before anything is done with it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from unbackdoor.base.errors import InputError
from unbackdoor.runs.parameters import keywords
from unbackdoor.triggers import parse_trigger
from unbackdoor.verbs.configs.models import INFO
from unbackdoor.verbs.results import DataInfo, ModelInfo, TriggerInfo

if TYPE_CHECKING:
    from torch import nn

    from unbackdoor.clip.handle import Clip


@keywords(INFO)
def info(
    *,
    model: str | Path | nn.Module | Clip | None,
    data: str | None,
    trigger: str | None,
    checkpoint: Path | None,
    classes: str | None,
) -> ModelInfo | DataInfo | TriggerInfo:
    """Describe a model (architecture, sizes, hash), a source (splits, classes, counts) or a trigger (parameters).

    Raises:
        InputError: not exactly one of the three, or it cannot be read.
    """
    if sum(x is not None for x in (model, data, trigger)) != 1:
        raise InputError("give exactly one of --model, --data and --trigger")
    if model is not None:
        from unbackdoor.runs.case import open_model

        clip = open_model(model, checkpoint)
        return ModelInfo(model=clip.reference, **clip.info())
    if data is not None:
        from unbackdoor.data import describe

        return DataInfo(data=data, **describe(data, classes=classes))
    assert trigger is not None
    kind = parse_trigger(trigger)
    about = (type(kind).__doc__ or "").strip().splitlines()[0]
    values = {f.name: getattr(kind, f.name) for f in fields(kind)}
    return TriggerInfo(trigger=kind.spec(), name=kind.name, about=about, parameters=values)
