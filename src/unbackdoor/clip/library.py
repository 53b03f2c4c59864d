"""Calling OpenCLIP and transformers on a stranger's files: quietly, off the network, and without running their code."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def guarded(*, online: bool = False) -> Iterator[None]:
    """Run library code with no chatter, no questions and, unless `online`, no network.

    A configuration can name a hub model as its text tower, trunk or tokeniser; the libraries would fetch it unasked.
    They read their offline switch once, from the environment, so the switch itself is turned here. What is already
    in the local cache is still found.
    """
    import huggingface_hub.constants as hub

    changed: list[tuple[object, str, object]] = []

    def turn(owner: object, name: str, value: object) -> None:
        if hasattr(owner, name):
            changed.append((owner, name, getattr(owner, name)))
            setattr(owner, name, value)

    try:
        import transformers.dynamic_module_utils as dynamic
        import transformers.utils.hub as transformers_hub
    except ImportError:
        pass
    else:
        # Nought seconds: a folder that brings code is refused instead of the user being asked about it on stdout.
        turn(dynamic, "TIME_OUT_REMOTE_CODE", 0)
        if not online:
            turn(transformers_hub, "_is_offline_mode", True)  # a switch of its own before version 5
    if not online:
        turn(hub, "HF_HUB_OFFLINE", True)
    previous, handlers = logging.root.manager.disable, list(logging.root.handlers)
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
        logging.root.handlers[:] = handlers  # `logging.info` gives the root one where it has none
        for owner, name, value in reversed(changed):
            setattr(owner, name, value)


@contextmanager
def undisturbed(*, draws: bool = False) -> Iterator[None]:
    """Build models in float32 on the CPU, and leave what all code shares as it was: generators, default type.

    Args:
        draws: let the generators move on, for a caller who wants random numbers.
    """
    import random

    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)
        if not draws:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])
